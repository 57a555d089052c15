// OpenVINO on the CPU: the twin of engines/backends/openvino.py.
#include <openvino/openvino.hpp>

#include "core/failure.hpp"
#include "engines/backends.hpp"
#include "engines/processor.hpp"
#include "images/pixels.hpp"

namespace alexnet_deploy {
namespace {

class OpenVinoRunner final : public Runner {
public:
    OpenVinoRunner(ov::CompiledModel& compiled, std::size_t num_classes)
        : request_(compiled.create_infer_request()), num_classes_(num_classes) {}

    void run(const std::uint8_t* squares, std::size_t num_images, float* probabilities) override {
        try {
            // OpenVINO's interface lacks const, but it does not write to its inputs.
            const ov::Tensor images(ov::element::u8, {num_images, side, side, 3}, const_cast<std::uint8_t*>(squares));
            request_.set_tensor(images_name, images);
            request_.infer();
        } catch (const std::exception& error) {
            fail(ALEXNET_DEPLOY_BACKEND_ERROR,
                 "openvino: the graph could not be run: " + in_one_line(error.what()));
        }
        const ov::Tensor answer = request_.get_tensor(probabilities_name);
        if (answer.get_element_type() != ov::element::f32 || answer.get_shape() != ov::Shape{num_images, num_classes_}) {
            fail(ALEXNET_DEPLOY_WRONG_ANSWER_ERROR, "openvino: its output has another type or shape");
        }
        std::copy_n(answer.data<const float>(), answer.get_size(), probabilities);
    }

private:
    ov::InferRequest request_;
    std::size_t num_classes_;
};

std::string arithmetic_of(const GraphSource& source) {
    if (source.precision != "int8") {
        return "float32";
    }
    return source.needs_vnni && !has_vnni() ? "saturating int8 products" : "int8 products";
}

}  // namespace

Opened open_openvino(const GraphSource& source, const Request& request) {
    // Without the hint OpenVINO runs even an FP32 graph in bfloat16 on CPUs that support it: an error of 3.8e-3.
    ov::AnyMap settings{
        ov::hint::inference_precision(ov::element::f32),
        ov::hint::performance_mode(request.tuning == ALEXNET_DEPLOY_THROUGHPUT ? ov::hint::PerformanceMode::THROUGHPUT
                                                                               : ov::hint::PerformanceMode::LATENCY)};
    if (request.num_threads > 0) {
        settings.insert(ov::inference_num_threads(request.num_threads));
    }
    try {
        ov::Core core;
        const std::string model(source.data.text());
        ov::CompiledModel compiled = core.compile_model(core.read_model(model, ov::Tensor()), "CPU", settings);
        const std::uint32_t num_streams = compiled.get_property(ov::optimal_number_of_infer_requests);
        const std::string version = ov::get_openvino_version().buildNumber;
        Opened opened{{},
                      version.substr(0, version.find('-')),
                      "cpu",
                      arithmetic_of(source),
                      max_batch_for(source.num_views),
                      batch_size_for(source.num_views),
                      false};
        for (std::uint32_t stream = 0; stream < num_streams; ++stream) {
            opened.runners.push_back(std::make_unique<OpenVinoRunner>(compiled, source.num_classes));
        }
        return opened;
    } catch (const Failure&) {
        throw;
    } catch (const std::exception& error) {
        fail(ALEXNET_DEPLOY_BACKEND_ERROR,
             source.name + ": openvino cannot load the graph: " + in_one_line(error.what()));
    }
}

}  // namespace alexnet_deploy
