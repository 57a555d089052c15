/* alexnet-deploy in C: image files and camera frames in, class probabilities out.
 *
 *     alexnet_deploy_engine* engine = NULL;
 *     if (alexnet_deploy_open("my-fp16.bundle", NULL, &engine) != ALEXNET_DEPLOY_OK) {
 *         fprintf(stderr, "%s\n", alexnet_deploy_last_error());
 *         return 3;
 *     }
 *     float* probabilities = calloc(alexnet_deploy_num_classes(engine), sizeof(float));
 *     alexnet_deploy_classify_file(engine, "photo.jpg", probabilities, alexnet_deploy_num_classes(engine));
 *     alexnet_deploy_close(engine);
 *
 * A square is the network's input: uint8, 256 rows of 256 pixels of 3 channels, RGB, upright. The same file gives the
 * same square, equal to the bit, as alexnet_deploy in Python (alexnet_deploy/core/images/decode.py).
 *
 * Every function that can fail returns a status. No exception leaves the library. All functions may be called from any
 * thread; one engine may be used by many threads at a time, but must be closed once, after their calls have ended.
 */
#ifndef ALEXNET_DEPLOY_H
#define ALEXNET_DEPLOY_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define ALEXNET_DEPLOY_API
#else
#define ALEXNET_DEPLOY_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define ALEXNET_DEPLOY_SIDE 256
#define ALEXNET_DEPLOY_SQUARE_BYTES (ALEXNET_DEPLOY_SIDE * ALEXNET_DEPLOY_SIDE * 3)

/* The outcome of a call. The values are part of the ABI. */
typedef enum alexnet_deploy_status {
    ALEXNET_DEPLOY_OK = 0,

    /* One image cannot be read. */
    ALEXNET_DEPLOY_EMPTY = 1,              /* The file has no bytes. */
    ALEXNET_DEPLOY_NOT_AN_IMAGE = 2,       /* No decoder recognises the header. */
    ALEXNET_DEPLOY_UNSUPPORTED_FORMAT = 3, /* A valid image in a format that this library does not decode. */
    ALEXNET_DEPLOY_TRUNCATED = 4,          /* The header is valid, the pixel data end early or are damaged. */
    ALEXNET_DEPLOY_TOO_LARGE = 5,          /* The bytes, the pixels or the decoding work exceed the limits. */
    ALEXNET_DEPLOY_UNREADABLE = 6,         /* The operating system refused to read the file. */
    ALEXNET_DEPLOY_MISSING = 7,            /* The file does not exist. */

    ALEXNET_DEPLOY_USAGE_ERROR = 32,        /* The call contradicts itself or names something that does not exist. */
    ALEXNET_DEPLOY_BUNDLE_ERROR = 33,       /* The bundle cannot be read. */
    ALEXNET_DEPLOY_INTEGRITY_ERROR = 34,    /* A file of the bundle differs from the published one. */
    ALEXNET_DEPLOY_BACKEND_ERROR = 35,      /* The engine is not available here, or for this bundle. */
    ALEXNET_DEPLOY_WRONG_ANSWER_ERROR = 36, /* The engine's output is not valid probabilities. */
    ALEXNET_DEPLOY_PARITY_ERROR = 37,       /* The engine disagrees with the trained network. */
    ALEXNET_DEPLOY_INTERNAL_ERROR = 38      /* No memory, or a defect of this library. */
} alexnet_deploy_status;

/* What part of an image becomes a square. */
typedef enum alexnet_deploy_resize {
    ALEXNET_DEPLOY_SHORTER_SIDE = 0, /* The central square. */
    ALEXNET_DEPLOY_WARP = 1          /* The whole image. */
} alexnet_deploy_resize;

/* How an image file is decoded. */
typedef enum alexnet_deploy_decoding {
    ALEXNET_DEPLOY_EXACT = 0, /* All pixels. */
    ALEXNET_DEPLOY_SCALED = 1 /* A JPEG at 1/2, 1/4 or 1/8 if its shorter side keeps 512 pixels: several times faster. */
} alexnet_deploy_decoding;

/* How an image file becomes a square. A bundle's manifest says which policy its network was trained with. */
typedef struct alexnet_deploy_image_policy {
    alexnet_deploy_resize resize;
    alexnet_deploy_decoding decoding;
} alexnet_deploy_image_policy;

/* The order of the bytes of a pixel; alpha is ignored. */
typedef enum alexnet_deploy_pixel_format {
    ALEXNET_DEPLOY_RGB = 0,
    ALEXNET_DEPLOY_BGR = 1,
    ALEXNET_DEPLOY_RGBA = 2,
    ALEXNET_DEPLOY_BGRA = 3,
    ALEXNET_DEPLOY_GREY = 4
} alexnet_deploy_pixel_format;

/* An image in memory, as from a camera. The caller owns the pixels. */
typedef struct alexnet_deploy_frame {
    const uint8_t* pixels; /* The first pixel of the top row. */
    int32_t width;
    int32_t height;
    ptrdiff_t stride_bytes; /* From one row to the next; negative for a frame stored bottom row first. */
    alexnet_deploy_pixel_format format;
} alexnet_deploy_frame;

/* Limits on an image; a larger one is refused from its header. 0 means the default. */
typedef struct alexnet_deploy_limits {
    int64_t max_pixels; /* Width times height; default 268,435,456. */
    int64_t max_bytes;  /* File size; default 268,435,456. */
    int64_t max_scans;  /* Scans of a JPEG: each decodes all pixels again; default 100. */
} alexnet_deploy_limits;

/* How CPU cores are used. */
typedef enum alexnet_deploy_tuning {
    ALEXNET_DEPLOY_LATENCY = 0,   /* All of them for one run. */
    ALEXNET_DEPLOY_THROUGHPUT = 1 /* Several concurrent runs; call from as many threads as the engine has streams. */
} alexnet_deploy_tuning;

/* How a bundle is opened. Initialise it with ALEXNET_DEPLOY_OPTIONS. */
typedef struct alexnet_deploy_options {
    size_t struct_bytes; /* sizeof(alexnet_deploy_options), so that later versions may add fields. */
    const char* backend; /* "auto", "openvino", "onnxruntime", "tensorrt" or "tensorrt-rtx"; NULL is "auto". */
    const char* device;  /* "auto", "cpu", "cuda" or "cuda:N"; NULL is "auto". */
    int32_t num_threads; /* CPU threads; 0 leaves the number to the backend. */
    alexnet_deploy_tuning tuning;
    alexnet_deploy_limits limits;
} alexnet_deploy_options;

#define ALEXNET_DEPLOY_OPTIONS {sizeof(alexnet_deploy_options), NULL, NULL, 0, ALEXNET_DEPLOY_LATENCY, {0, 0, 0}}

/* What an engine runs on. The texts live as long as the engine. */
typedef struct alexnet_deploy_info {
    const char* backend;
    const char* version; /* Version of the backend's library. */
    const char* device;
    const char* precision;     /* Precision of the graph: "fp32", "fp16" or "int8". */
    const char* arithmetic;    /* Number type of its multiplications, which may be wider. */
    const char* bundle_sha256; /* Digest of the bundle's manifest. */
    alexnet_deploy_image_policy policy;
    int32_t num_streams; /* Maximum number of concurrent runs; further runs wait. */
    int32_t batch_size;  /* Smallest batch that reaches full throughput. */
} alexnet_deploy_info;

/* What a proof found. */
typedef struct alexnet_deploy_proof {
    int32_t num_images;      /* Golden images that were compared. */
    int32_t num_files;       /* Golden files that were decoded; 0 for a bundle without them. */
    int32_t num_files_exact; /* Golden files whose pixels are equal to the bit. */
    double max_error;        /* Largest difference of a probability. */
    double max_log_error;    /* Largest difference of a log-probability, in nats. */
} alexnet_deploy_proof;

/* An open bundle on a backend. */
typedef struct alexnet_deploy_engine alexnet_deploy_engine;

/* Version of this library, as "0.1.0". */
ALEXNET_DEPLOY_API const char* alexnet_deploy_version(void);

/* Names of the backends that this library was built with, separated by commas; empty if there are none. */
ALEXNET_DEPLOY_API const char* alexnet_deploy_backends(void);

/* Name of a status as in Python: "truncated", "integrity_error". */
ALEXNET_DEPLOY_API const char* alexnet_deploy_status_name(alexnet_deploy_status status);

/* One sentence about the last call of this thread that failed; empty if none did. Valid until the next failure. */
ALEXNET_DEPLOY_API const char* alexnet_deploy_last_error(void);

/* ---- Pixels: no bundle needed. ---- */

/* Resize a frame to a square of ALEXNET_DEPLOY_SQUARE_BYTES bytes. */
ALEXNET_DEPLOY_API alexnet_deploy_status alexnet_deploy_to_square(const alexnet_deploy_frame* frame,
                                                                  alexnet_deploy_resize resize, uint8_t* square);

/* Decode the bytes of an image file (JPEG, PNG) to a square. `limits` may be NULL. */
ALEXNET_DEPLOY_API alexnet_deploy_status alexnet_deploy_decode(const void* data, size_t num_bytes,
                                                               alexnet_deploy_image_policy policy,
                                                               const alexnet_deploy_limits* limits, uint8_t* square);

/* Decode an image file to a square. `limits` may be NULL. */
ALEXNET_DEPLOY_API alexnet_deploy_status alexnet_deploy_decode_file(const char* path,
                                                                    alexnet_deploy_image_policy policy,
                                                                    const alexnet_deploy_limits* limits,
                                                                    uint8_t* square);

/* ---- Bundles and engines. ---- */

/* Read every file of a bundle and compare it with the manifest. */
ALEXNET_DEPLOY_API alexnet_deploy_status alexnet_deploy_verify(const char* bundle);

/* Open a bundle. Every byte that is used is verified first. Digests prove that the files are the published ones; they
 * do not prove who published them. `options` may be NULL. On failure *engine is NULL. */
ALEXNET_DEPLOY_API alexnet_deploy_status alexnet_deploy_open(const char* bundle, const alexnet_deploy_options* options,
                                                             alexnet_deploy_engine** engine);

/* Close an engine and release its memory. NULL does nothing. */
ALEXNET_DEPLOY_API void alexnet_deploy_close(alexnet_deploy_engine* engine);

/* Run the bundle's golden images and files and compare the results with the trained network's. Returns
 * ALEXNET_DEPLOY_PARITY_ERROR if they differ by more than the tolerance. `proof` may be NULL. */
ALEXNET_DEPLOY_API alexnet_deploy_status alexnet_deploy_prove(alexnet_deploy_engine* engine,
                                                              alexnet_deploy_proof* proof);

/* Describe an engine. */
ALEXNET_DEPLOY_API alexnet_deploy_status alexnet_deploy_describe(const alexnet_deploy_engine* engine,
                                                                 alexnet_deploy_info* info);

/* Number of classes; 0 for NULL. */
ALEXNET_DEPLOY_API size_t alexnet_deploy_num_classes(const alexnet_deploy_engine* engine);

/* Name of a class, UTF-8, valid as long as the engine; NULL for an index that is not a class. */
ALEXNET_DEPLOY_API const char* alexnet_deploy_class_name(const alexnet_deploy_engine* engine, size_t index);

/* Classify `num_images` squares that lie one after the other. `probabilities` receives num_images rows of num_classes
 * values, each row summing to 1; `num_values` is its length, num_images times num_classes. */
ALEXNET_DEPLOY_API alexnet_deploy_status alexnet_deploy_classify_squares(alexnet_deploy_engine* engine,
                                                                         const uint8_t* squares, size_t num_images,
                                                                         float* probabilities, size_t num_values);

/* Classify the bytes of one image file. `num_values` is the length of `probabilities`, the number of classes. */
ALEXNET_DEPLOY_API alexnet_deploy_status alexnet_deploy_classify(alexnet_deploy_engine* engine, const void* data,
                                                                 size_t num_bytes, float* probabilities,
                                                                 size_t num_values);

/* Classify one image file. */
ALEXNET_DEPLOY_API alexnet_deploy_status alexnet_deploy_classify_file(alexnet_deploy_engine* engine, const char* path,
                                                                      float* probabilities, size_t num_values);

/* Classify one frame. */
ALEXNET_DEPLOY_API alexnet_deploy_status alexnet_deploy_classify_frame(alexnet_deploy_engine* engine,
                                                                       const alexnet_deploy_frame* frame,
                                                                       float* probabilities, size_t num_values);

#ifdef __cplusplus
}
#endif

#endif
