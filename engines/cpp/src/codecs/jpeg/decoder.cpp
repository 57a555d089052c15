#include "codecs/jpeg/decoder.hpp"

#include <algorithm>
#include <csetjmp>
#include <cstdio>
// jpeglib.h needs FILE and size_t before it.
#include <jerror.h>
#include <jpeglib.h>

#include "codecs/exif.hpp"
#include "codecs/jpeg/segments.hpp"

namespace alexnet_deploy {
namespace {

constexpr int lossless_frame = 0xc3;

/// libjpeg's error handler: it jumps back, because an exception must not pass through C.
struct ErrorHandler {
    jpeg_error_mgr base{};
    std::jmp_buf back{};
    char message[JMSG_LENGTH_MAX]{};
};

[[noreturn]] void jump_back(j_common_ptr codec) {
    auto* handler = reinterpret_cast<ErrorHandler*>(codec->err);
    codec->err->format_message(codec, handler->message);
    std::longjmp(handler->back, 1);
}

void ignore_message(j_common_ptr) {}

// libjpeg's own source in memory pretends that a truncated file ends properly; this one does not.
boolean fail_at_end(j_decompress_ptr codec) {
    ERREXIT(codec, JERR_INPUT_EOF);
    return FALSE;
}

void skip_bytes(j_decompress_ptr codec, long count) {
    const std::size_t skipped = std::min(static_cast<std::size_t>(std::max(count, 0L)), codec->src->bytes_in_buffer);
    codec->src->next_input_byte += skipped;
    codec->src->bytes_in_buffer -= skipped;
}

void do_nothing(j_decompress_ptr) {}

/// libjpeg's decoder, destroyed with its owner.
class Codec {
public:
    explicit Codec(Bytes data) {
        state_.err = jpeg_std_error(&handler_.base);
        handler_.base.error_exit = jump_back;
        handler_.base.output_message = ignore_message;
        jpeg_create_decompress(&state_);
        source_.next_input_byte = data.data();
        source_.bytes_in_buffer = data.size();
        source_.init_source = do_nothing;
        source_.fill_input_buffer = fail_at_end;
        source_.skip_input_data = skip_bytes;
        source_.resync_to_restart = jpeg_resync_to_restart;
        source_.term_source = do_nothing;
        state_.src = &source_;
    }
    ~Codec() { jpeg_destroy_decompress(&state_); }
    Codec(const Codec&) = delete;
    Codec& operator=(const Codec&) = delete;

    /// Read the header and start decoding to `space` at 1 / `scale`. Returns whether libjpeg raised no error.
    bool start(J_COLOR_SPACE space, int scale) {
        if (setjmp(handler_.back) != 0) {
            return false;
        }
        jpeg_read_header(&state_, TRUE);
        state_.out_color_space = space;
        state_.scale_num = 1;
        state_.scale_denom = static_cast<unsigned int>(scale);
        jpeg_start_decompress(&state_);
        return true;
    }

    /// Read the next row.
    bool read_row(std::uint8_t* row) {
        if (setjmp(handler_.back) != 0) {
            return false;
        }
        JSAMPROW rows[] = {row};
        return jpeg_read_scanlines(&state_, rows, 1) == 1;
    }

    /// Read up to the end of the image; the file may end before that.
    bool finish() {
        if (setjmp(handler_.back) != 0) {
            return failed_with(JERR_INPUT_EOF);
        }
        jpeg_finish_decompress(&state_);
        return true;
    }

    [[nodiscard]] bool failed_with(int code) const { return handler_.base.msg_code == code; }
    [[nodiscard]] bool failed_with(int code, int detail) const {
        return failed_with(code) && handler_.base.msg_parm.i[0] == detail;
    }
    [[nodiscard]] const char* message() const { return handler_.message; }
    [[nodiscard]] int width() const { return static_cast<int>(state_.output_width); }
    [[nodiscard]] int height() const { return static_cast<int>(state_.output_height); }
    [[nodiscard]] int num_samples() const { return state_.output_components; }

private:
    ErrorHandler handler_;
    jpeg_source_mgr source_{};
    jpeg_decompress_struct state_{};
};

[[noreturn]] void fail_decoding(const Codec& codec) {
    // Later versions of libjpeg-turbo, as in Pillow, decode lossless files; a library without arithmetic coding is rare.
    if (codec.failed_with(JERR_SOF_UNSUPPORTED, lossless_frame) || codec.failed_with(JERR_ARITH_NOTIMPL)) {
        fail(ALEXNET_DEPLOY_UNSUPPORTED_FORMAT,
             std::string("the installed libjpeg-turbo does not decode this kind of JPEG: ") + codec.message());
    }
    if (codec.failed_with(JERR_OUT_OF_MEMORY)) {
        fail(ALEXNET_DEPLOY_TOO_LARGE, "no memory to decode it in");
    }
    fail_damaged("JPEG", codec.message());
}

/// Convert a row of inverted CMYK to RGB, as Pillow does without a profile.
void to_rgb(const std::uint8_t* cmyk, int width, std::uint8_t* rgb) {
    for (int x = 0; x < width; ++x, cmyk += 4, rgb += 3) {
        const int not_black = cmyk[3];
        for (int channel = 0; channel < 3; ++channel) {
            const int product = (255 - cmyk[channel]) * not_black + 128;
            rgb[channel] = static_cast<std::uint8_t>(std::max(not_black - (((product >> 8) + product) >> 8), 0));
        }
    }
}

/// The smallest scale at which the shorter side keeps twice the pixels that it is resized to: 8, 4, 2 or 1.
int scale_of(const JpegHeader& header) {
    int scale = 8;
    while (scale > 1 && std::min(header.width, header.height) < 2 * side * scale) {
        scale /= 2;
    }
    return scale;
}

Bitmap decode_pixels(const JpegHeader& header, int scale, Bytes data) {
    const bool is_cmyk = header.num_layers == 4;
    Codec codec(data);
    if (!codec.start(header.num_layers == 1 ? JCS_GRAYSCALE : is_cmyk ? JCS_CMYK : JCS_RGB, scale)) {
        fail_decoding(codec);
    }
    const int width = (header.width + scale - 1) / scale;
    const int height = (header.height + scale - 1) / scale;
    if (codec.width() != width || codec.height() != height || codec.num_samples() != header.num_layers) {
        fail_damaged("JPEG", "it has two sizes");
    }
    Bitmap pixels(width, height, is_cmyk ? 3 : header.num_layers);
    std::vector<std::uint8_t> ink(is_cmyk ? static_cast<std::size_t>(width) * 4 : 0);
    for (int y = 0; y < height; ++y) {
        if (!codec.read_row(is_cmyk ? ink.data() : pixels.row(y))) {
            fail_decoding(codec);
        }
        if (is_cmyk) {
            to_rgb(ink.data(), width, pixels.row(y));
        }
    }
    if (!codec.finish()) {
        fail_decoding(codec);
    }
    return pixels;
}

}  // namespace

StoredImage decode_jpeg(Bytes data, alexnet_deploy_decoding decoding, const Limits& limits) {
    refuse_jpeg_process(data);
    const JpegHeader header = read_jpeg_header(data);
    refuse_large(header.width, header.height, limits);
    check_jpeg_work(header, data, limits);
    if (!header.has_scan) {
        fail_damaged("JPEG", "it has no pixels");
    }
    const int scale = decoding == ALEXNET_DEPLOY_SCALED ? scale_of(header) : 1;
    StoredImage image{decode_pixels(header, scale, data), {header.width, header.height, scale}};
    if (header.num_layers == 3 && header.icc_profile) {
        image.conversion = conversion_of_profile(*header.icc_profile);
    }
    image.orientation =
        orientation_of(header.exif ? std::optional<Bytes>(*header.exif) : std::nullopt, header.xmp);
    return image;
}

}  // namespace alexnet_deploy
