// libcudnn.so.9, emulated: convolutions of packed NHWC maps in f32 and bf16, forward and both gradients, by their
// definition. Sums are f64; inputs of f32 convolutions that are not asked for in FMA math are rounded to TF32, as on the
// device, so that who forgets to ask sees it.
//
// Every descriptor is checked as cuDNN's documentation says. Stricter than cuDNN: maps must begin at multiples of 16
// bytes. Algorithms that need a workspace leave it scribbled over.
#include <memory>
#include <string>

#include "runtime.h"

#define API extern "C" __attribute__((visibility("default"))) int

namespace {

enum Status {
    SUCCESS = 0,
    NOT_INITIALIZED = 1001,
    BAD_PARAM = 2000,
    BAD_NULL = 2002,
    BAD_ALIGNMENT = 2003,
    BAD_SIZE = 2006,
    NOT_SUPPORTED = 3000,
    EXECUTION_FAILED = 5000,
};
enum DataType { FLOAT = 0, BFLOAT16 = 9 };
enum Layout { NCHW = 0, NHWC = 1 };
enum Math { DEFAULT_MATH = 0, TENSOR_OP = 1, ALLOW_CONVERSION = 2, FMA = 3 };
enum Pass { FORWARD, DATA, FILTER };

struct Tensor {
    bool set;
    int type, layout;
    int dims[4];  // n c h w
};
struct Filter {
    bool set;
    int type, layout;
    int dims[4];  // k c r s
};
struct Convolution {
    bool set;
    int pad[2], stride[2], dilation[2], mode, compute, math, groups;
};
struct Handle {
    void *stream;
};

thread_local std::string last_error;
int refuse(int status, const std::string &why) {
    last_error = why;
    fprintf(stderr, "emulator: cuDNN refuses (%d): %s\n", status, why.c_str());
    return status;
}
#define REQUIRE(condition, status, why)                                                                                \
    if (!(condition)) return refuse(status, why)

size_t bytes_of(int type) { return type == FLOAT ? 4 : 2; }
size_t count_of(const int *dims) { return size_t(dims[0]) * dims[1] * dims[2] * dims[3]; }

// ------------------------------------------------------------------------------------------------------ the problem
struct Problem {
    Tensor x, y;
    Filter w;
    Convolution how;
};

/// Everything that has to fit before an algorithm is looked at.
int check(const Tensor *x, const Filter *w, const Convolution *how, const Tensor *y) {
    REQUIRE(x && w && how && y, BAD_NULL, "a descriptor is null");
    REQUIRE(x->set && w->set && how->set && y->set, BAD_PARAM, "a descriptor was created and never set");
    REQUIRE(x->type == y->type && x->type == w->type, BAD_PARAM, "maps and weights differ in data type");
    REQUIRE(how->compute == FLOAT, NOT_SUPPORTED, "maps in f32 and bf16 are computed in CUDNN_DATA_FLOAT");
    REQUIRE(x->layout == NHWC && y->layout == NHWC && w->layout == NHWC, NOT_SUPPORTED, "the emulator knows NHWC alone");
    REQUIRE(how->mode == 1, NOT_SUPPORTED, "the emulator knows CUDNN_CROSS_CORRELATION alone");
    REQUIRE(x->dims[1] == w->dims[1] * how->groups, BAD_PARAM,
            "the input has " + std::to_string(x->dims[1]) + " channels, the filter " + std::to_string(w->dims[1]) + " in " +
                std::to_string(how->groups) + " groups");
    REQUIRE(w->dims[0] % how->groups == 0, BAD_PARAM, "outputs are no multiple of the groups");
    REQUIRE(x->dims[0] == y->dims[0], BAD_PARAM, "batches differ");
    REQUIRE(y->dims[1] == w->dims[0], BAD_PARAM, "the output's channels are not the filter's outputs");
    for (int axis = 0; axis < 2; axis++) {
        int extent = x->dims[2 + axis] + 2 * how->pad[axis] - ((w->dims[2 + axis] - 1) * how->dilation[axis] + 1);
        REQUIRE(extent >= 0, BAD_PARAM, "the filter is larger than the padded input");
        REQUIRE(y->dims[2 + axis] == extent / how->stride[axis] + 1, BAD_PARAM, "the output's size is not the convolution's");
    }
    return SUCCESS;
}

bool is_supported(Pass, int algorithm) { return algorithm == 0 || algorithm == 1; }

/// The first algorithm needs none, the second an odd number of bytes.
size_t workspace(const Problem &problem, int algorithm) {
    if (algorithm == 0) return 0;
    return size_t(problem.w.dims[0]) * 40 + size_t(problem.w.dims[2]) * problem.w.dims[3] * 12 + 1;
}

// ----------------------------------------------------------------------------------------------------- the arithmetic
float to_tf32(float value) {
    unsigned bits = __float_as_uint(value);
    if ((bits & 0x7f800000u) == 0x7f800000u) return value;
    return __uint_as_float((bits + 0xfffu + ((bits >> 13) & 1u)) & ~0x1fffu);
}

std::vector<float> load(const void *from, size_t count, int type, bool tf32) {
    std::vector<float> values(count);
    if (type == FLOAT) memcpy(values.data(), from, count * 4);
    else
        for (size_t i = 0; i < count; i++) values[i] = __bfloat162float(static_cast<const __nv_bfloat16 *>(from)[i]);
    if (tf32)
        for (float &value : values) value = to_tf32(value);
    return values;
}

void store(void *to, const std::vector<double> &sums, int type, float alpha, float beta) {
    for (size_t i = 0; i < sums.size(); i++) {
        double value = alpha * sums[i];
        if (type == FLOAT) {
            float &at = static_cast<float *>(to)[i];
            // What is not asked for is not read: it may be anything.
            at = float(beta == 0 ? value : value + double(beta) * at);
        } else {
            auto &at = static_cast<__nv_bfloat16 *>(to)[i];
            at = __float2bfloat16_rn(float(beta == 0 ? value : value + double(beta) * __bfloat162float(at)));
        }
    }
}

/// Calls `visit(input pixel, tap, output pixel)` for every pair of pixels that a tap joins.
template <typename Visit>
void for_each_pair(const Problem &p, Visit visit) {
    const int *in = p.x.dims, *out = p.y.dims, *taps = p.w.dims;
    for (int n = 0; n < out[0]; n++)
        for (int row = 0; row < out[2]; row++)
            for (int column = 0; column < out[3]; column++)
                for (int r = 0; r < taps[2]; r++)
                    for (int s = 0; s < taps[3]; s++) {
                        int from_row = row * p.how.stride[0] + r * p.how.dilation[0] - p.how.pad[0];
                        int from_column = column * p.how.stride[1] + s * p.how.dilation[1] - p.how.pad[1];
                        if (from_row < 0 || from_column < 0 || from_row >= in[2] || from_column >= in[3]) continue;
                        visit((size_t(n) * in[2] + from_row) * in[3] + from_column, size_t(r) * taps[3] + s,
                              (size_t(n) * out[2] + row) * out[3] + column);
                    }
}

struct Run {
    Problem problem;
    Pass pass;
    const void *x, *w, *y;  // of these, the pass writes one
    void *space;
    size_t space_bytes;
    float alpha, beta;
};

/// `sums[output] += input * weight` over every product, where what is summed is the pass's result.
void multiply(const Run &run, const std::vector<float> &x, const std::vector<float> &w, const std::vector<float> &y,
              std::vector<double> &sums) {
    const Problem &p = run.problem;
    const size_t groups = p.how.groups, inputs = p.w.dims[1], outputs = p.w.dims[0] / groups;
    const size_t taps = size_t(p.w.dims[2]) * p.w.dims[3];
    for_each_pair(p, [&](size_t from, size_t tap, size_t to) {
        for (size_t k = 0; k < groups * outputs; k++) {
            const size_t x_at = from * groups * inputs + k / outputs * inputs;
            const size_t w_at = (k * taps + tap) * inputs, y_at = to * groups * outputs + k;
            switch (run.pass) {
                case FORWARD: {
                    double sum = 0;
                    for (size_t c = 0; c < inputs; c++) sum += double(x[x_at + c]) * w[w_at + c];
                    sums[y_at] += sum;
                    break;
                }
                case DATA:
                    for (size_t c = 0; c < inputs; c++) sums[x_at + c] += double(y[y_at]) * w[w_at + c];
                    break;
                case FILTER:
                    for (size_t c = 0; c < inputs; c++) sums[w_at + c] += double(y[y_at]) * x[x_at + c];
                    break;
            }
        }
    });
}

void execute(void *data) {
    const Run &run = *static_cast<Run *>(data);
    const Problem &p = run.problem;
    int type = p.x.type;
    bool tf32 = type == FLOAT && p.how.math != FMA;
    size_t x_count = count_of(p.x.dims), w_count = count_of(p.w.dims), y_count = count_of(p.y.dims);
    if (run.space) memset(run.space, 0x7f, run.space_bytes);
    auto read = [&](const void *from, size_t count, bool wanted) {
        return wanted ? load(from, count, type, tf32) : std::vector<float>();
    };
    auto x = read(run.x, x_count, run.pass != DATA);
    auto w = read(run.w, w_count, run.pass != FILTER);
    auto y = read(run.y, y_count, run.pass != FORWARD);
    std::vector<double> sums(run.pass == FORWARD ? y_count : run.pass == DATA ? x_count : w_count);
    multiply(run, x, w, y, sums);
    const void *result = run.pass == FORWARD ? run.y : run.pass == DATA ? run.x : run.w;
    store(const_cast<void *>(result), sums, type, run.alpha, run.beta);
}

int check_pointer(const char *what, const void *at, size_t bytes) {
    REQUIRE(at, BAD_NULL, std::string(what) + " is null");
    REQUIRE(reinterpret_cast<uintptr_t>(at) % 16 == 0, BAD_ALIGNMENT, std::string(what) + " is not aligned to 16 bytes");
    REQUIRE(emulated_on_device(at, bytes), BAD_PARAM,
            std::string(what) + ": " + std::to_string(bytes) + " bytes lie in no single allocation of the device");
    return SUCCESS;
}

int start(Handle *handle, Pass pass, int algorithm, const void *alpha, const void *beta, const Tensor *x, const void *x_at,
          const Filter *w, const void *w_at, const Convolution *how, const Tensor *y, const void *y_at, void *space,
          size_t space_bytes) {
    REQUIRE(handle, BAD_NULL, "the handle is null");
    REQUIRE(alpha && beta, BAD_NULL, "alpha or beta is null");
    if (int status = check(x, w, how, y)) return status;
    REQUIRE(is_supported(pass, algorithm), NOT_SUPPORTED, "algorithm " + std::to_string(algorithm) + " does not take NHWC");
    // The ranking knows nothing of this, as cuDNN's may promise what then does not run.
    REQUIRE(algorithm == 0 || w->dims[2] * w->dims[3] <= 100, NOT_SUPPORTED, "algorithm 1 takes no such large filter");
    Problem problem{*x, *y, *w, *how};
    size_t needed = workspace(problem, algorithm);
    REQUIRE(space_bytes >= needed, BAD_SIZE,
            "a workspace of " + std::to_string(space_bytes) + " bytes where " + std::to_string(needed) + " are needed");
    if (needed)
        if (int status = check_pointer("the workspace", space, needed)) return status;
    size_t size = bytes_of(x->type);
    if (int status = check_pointer("x", x_at, count_of(x->dims) * size)) return status;
    if (int status = check_pointer("w", w_at, count_of(w->dims) * size)) return status;
    if (int status = check_pointer("y", y_at, count_of(y->dims) * size)) return status;
    auto run = new Run{problem, pass, x_at, w_at, y_at, needed ? space : nullptr, needed,
                       *static_cast<const float *>(alpha), *static_cast<const float *>(beta)};
    static const char *names[] = {"convolution", "gradient of a convolution's input", "gradient of a convolution's weights"};
    int status = emulated_enqueue(handle->stream, names[pass], execute, [](void *data) { delete static_cast<Run *>(data); }, run);
    return status ? EXECUTION_FAILED : SUCCESS;
}

// ------------------------------------------------------------------------------------------------- choice of algorithm
struct Performance {
    int algorithm, status;
    float time;
    size_t memory;
    int determinism, math, reserved[3];
};

/// What the heuristics answer: the algorithms that work, the fastest first (which is not deterministic for gradients, as
/// on the device), then the others with the reason.
int rank(Handle *handle, Pass pass, const Tensor *x, const Filter *w, const Convolution *how, const Tensor *y, int asked,
         int *returned, Performance *results) {
    REQUIRE(handle && returned && results, BAD_NULL, "an argument is null");
    REQUIRE(asked > 0, BAD_PARAM, "no algorithm is asked for");
    if (int status = check(x, w, how, y)) return status;
    Problem problem{*x, *y, *w, *how};
    static const int counts[] = {8, 6, 7};
    int forward_order[] = {1, 0}, gradient_order[] = {0, 1};
    int at = 0;
    for (int algorithm : pass == FORWARD ? forward_order : gradient_order) {
        if (at == asked) break;
        bool deterministic = pass == FORWARD || algorithm == 1;
        int math = how->math == FMA ? FMA : x->type == BFLOAT16 ? TENSOR_OP : DEFAULT_MATH;
        results[at] = {algorithm, SUCCESS, 0.1f * float(at + 1), workspace(problem, algorithm), deterministic, math, {}};
        at++;
    }
    for (int algorithm = 2; algorithm < counts[pass] && at < asked; algorithm++)
        results[at++] = {algorithm, NOT_SUPPORTED, -1.0f, 0, 0, DEFAULT_MATH, {}};
    *returned = at;
    return SUCCESS;
}

int size_of(Handle *handle, Pass pass, const Tensor *x, const Filter *w, const Convolution *how, const Tensor *y, int algorithm,
            size_t *bytes) {
    REQUIRE(handle && bytes, BAD_NULL, "an argument is null");
    if (int status = check(x, w, how, y)) return status;
    REQUIRE(is_supported(pass, algorithm), NOT_SUPPORTED, "algorithm " + std::to_string(algorithm) + " does not take NHWC");
    *bytes = workspace({*x, *y, *w, *how}, algorithm);
    return SUCCESS;
}

int set(int (&to)[4], int a, int b, int c, int d) {
    REQUIRE(a > 0 && b > 0 && c > 0 && d > 0, BAD_PARAM, "a dimension is not positive");
    to[0] = a, to[1] = b, to[2] = c, to[3] = d;
    return SUCCESS;
}

template <typename T>
int create(T **to) {
    REQUIRE(to, BAD_NULL, "nowhere to put it");
    *to = new T{};
    return SUCCESS;
}
template <typename T>
int destroy(T *of) {
    delete of;
    return SUCCESS;
}

}  // namespace

// --------------------------------------------------------------------------------------------------------- the library
extern "C" __attribute__((visibility("default"))) size_t cudnnGetVersion() { return 91900; }
extern "C" __attribute__((visibility("default"))) size_t cudnnGetCudartVersion() { return 13000; }
extern "C" __attribute__((visibility("default"))) const char *cudnnGetErrorString(int status) {
    switch (status) {
        case SUCCESS: return "CUDNN_STATUS_SUCCESS";
        case BAD_PARAM: return "CUDNN_STATUS_BAD_PARAM";
        case BAD_NULL: return "CUDNN_STATUS_BAD_PARAM_NULL_POINTER";
        case BAD_ALIGNMENT: return "CUDNN_STATUS_BAD_PARAM_MISALIGNED_POINTER";
        case BAD_SIZE: return "CUDNN_STATUS_BAD_PARAM_SIZE_INSUFFICIENT";
        case NOT_SUPPORTED: return "CUDNN_STATUS_NOT_SUPPORTED";
        case EXECUTION_FAILED: return "CUDNN_STATUS_EXECUTION_FAILED";
        default: return "CUDNN_UNKNOWN_STATUS";
    }
}
extern "C" __attribute__((visibility("default"))) void cudnnGetLastErrorString(char *to, size_t size) {
    if (size) snprintf(to, size, "%s", last_error.c_str());
}
API cudnnCreate(Handle **handle) { return create(handle); }
API cudnnDestroy(Handle *handle) { return destroy(handle); }
API cudnnSetStream(Handle *handle, void *stream) {
    REQUIRE(handle, BAD_NULL, "the handle is null");
    handle->stream = stream;
    return SUCCESS;
}
API cudnnGetStream(Handle *handle, void **stream) {
    REQUIRE(handle && stream, BAD_NULL, "an argument is null");
    *stream = handle->stream;
    return SUCCESS;
}
API cudnnOpsVersionCheck() { return SUCCESS; }
API cudnnCnnVersionCheck() { return SUCCESS; }
API cudnnAdvVersionCheck() { return SUCCESS; }

// --------------------------------------------------------------------------------------------------------- descriptors
API cudnnCreateTensorDescriptor(Tensor **to) { return create(to); }
API cudnnDestroyTensorDescriptor(Tensor *of) { return destroy(of); }
API cudnnSetTensor4dDescriptor(Tensor *to, int layout, int type, int n, int c, int h, int w) {
    REQUIRE(to, BAD_NULL, "the descriptor is null");
    REQUIRE(layout == NCHW || layout == NHWC, BAD_PARAM, "no layout of a tensor");
    REQUIRE(type == FLOAT || type == BFLOAT16, NOT_SUPPORTED, "the emulator knows f32 and bf16 alone");
    to->layout = layout, to->type = type, to->set = true;
    return set(to->dims, n, c, h, w);
}
API cudnnSetTensor4dDescriptorEx(Tensor *to, int type, int n, int c, int h, int w, int by_n, int by_c, int by_h, int by_w) {
    bool packed = by_c == 1 && by_w == c && by_h == w * c && by_n == h * w * c;
    REQUIRE(packed, NOT_SUPPORTED, "the emulator knows packed NHWC alone");
    return cudnnSetTensor4dDescriptor(to, NHWC, type, n, c, h, w);
}
API cudnnCreateFilterDescriptor(Filter **to) { return create(to); }
API cudnnDestroyFilterDescriptor(Filter *of) { return destroy(of); }
API cudnnSetFilter4dDescriptor(Filter *to, int type, int layout, int k, int c, int r, int s) {
    REQUIRE(to, BAD_NULL, "the descriptor is null");
    REQUIRE(layout == NCHW || layout == NHWC, BAD_PARAM, "no layout of a filter");
    REQUIRE(type == FLOAT || type == BFLOAT16, NOT_SUPPORTED, "the emulator knows f32 and bf16 alone");
    to->layout = layout, to->type = type, to->set = true;
    return set(to->dims, k, c, r, s);
}
API cudnnCreateConvolutionDescriptor(Convolution **to) { return create(to); }
API cudnnDestroyConvolutionDescriptor(Convolution *of) { return destroy(of); }
API cudnnSetConvolution2dDescriptor(Convolution *to, int pad_h, int pad_w, int u, int v, int dilation_h, int dilation_w, int mode,
                                    int compute) {
    REQUIRE(to, BAD_NULL, "the descriptor is null");
    REQUIRE(pad_h >= 0 && pad_w >= 0, BAD_PARAM, "padding is negative");
    REQUIRE(u > 0 && v > 0 && dilation_h > 0 && dilation_w > 0, BAD_PARAM, "a stride or dilation is not positive");
    REQUIRE(mode == 0 || mode == 1, BAD_PARAM, "no mode of a convolution");
    *to = {true, {pad_h, pad_w}, {u, v}, {dilation_h, dilation_w}, mode, compute, DEFAULT_MATH, 1};
    return SUCCESS;
}
API cudnnSetConvolutionMathType(Convolution *to, int math) {
    REQUIRE(to, BAD_NULL, "the descriptor is null");
    REQUIRE(math >= DEFAULT_MATH && math <= FMA, BAD_PARAM, "no math type");
    to->math = math;
    return SUCCESS;
}
API cudnnGetConvolutionMathType(Convolution *of, int *math) {
    REQUIRE(of && math, BAD_NULL, "an argument is null");
    *math = of->math;
    return SUCCESS;
}
API cudnnSetConvolutionGroupCount(Convolution *to, int groups) {
    REQUIRE(to, BAD_NULL, "the descriptor is null");
    REQUIRE(groups > 0, BAD_PARAM, "groups are not positive");
    to->groups = groups;
    return SUCCESS;
}
API cudnnGetConvolutionGroupCount(Convolution *of, int *groups) {
    REQUIRE(of && groups, BAD_NULL, "an argument is null");
    *groups = of->groups;
    return SUCCESS;
}

// ----------------------------------------------------------------------------------------------------------- the passes
API cudnnGetConvolutionForwardAlgorithm_v7(Handle *handle, Tensor *x, Filter *w, Convolution *how, Tensor *y, int asked,
                                           int *returned, Performance *results) {
    return rank(handle, FORWARD, x, w, how, y, asked, returned, results);
}
API cudnnGetConvolutionBackwardDataAlgorithm_v7(Handle *handle, Filter *w, Tensor *dy, Convolution *how, Tensor *dx, int asked,
                                                int *returned, Performance *results) {
    return rank(handle, DATA, dx, w, how, dy, asked, returned, results);
}
API cudnnGetConvolutionBackwardFilterAlgorithm_v7(Handle *handle, Tensor *x, Tensor *dy, Convolution *how, Filter *dw, int asked,
                                                  int *returned, Performance *results) {
    return rank(handle, FILTER, x, dw, how, dy, asked, returned, results);
}
API cudnnGetConvolutionForwardAlgorithmMaxCount(Handle *, int *count) { return *count = 8, SUCCESS; }
API cudnnGetConvolutionBackwardDataAlgorithmMaxCount(Handle *, int *count) { return *count = 6, SUCCESS; }
API cudnnGetConvolutionBackwardFilterAlgorithmMaxCount(Handle *, int *count) { return *count = 7, SUCCESS; }
API cudnnGetConvolutionForwardWorkspaceSize(Handle *handle, Tensor *x, Filter *w, Convolution *how, Tensor *y, int algorithm,
                                            size_t *bytes) {
    return size_of(handle, FORWARD, x, w, how, y, algorithm, bytes);
}
API cudnnGetConvolutionBackwardDataWorkspaceSize(Handle *handle, Filter *w, Tensor *dy, Convolution *how, Tensor *dx, int algorithm,
                                                 size_t *bytes) {
    return size_of(handle, DATA, dx, w, how, dy, algorithm, bytes);
}
API cudnnGetConvolutionBackwardFilterWorkspaceSize(Handle *handle, Tensor *x, Tensor *dy, Convolution *how, Filter *dw,
                                                   int algorithm, size_t *bytes) {
    return size_of(handle, FILTER, x, dw, how, dy, algorithm, bytes);
}
API cudnnConvolutionForward(Handle *handle, const void *alpha, Tensor *x, const void *x_at, Filter *w, const void *w_at,
                            Convolution *how, int algorithm, void *space, size_t space_bytes, const void *beta, Tensor *y, void *y_at) {
    return start(handle, FORWARD, algorithm, alpha, beta, x, x_at, w, w_at, how, y, y_at, space, space_bytes);
}
API cudnnConvolutionBackwardData(Handle *handle, const void *alpha, Filter *w, const void *w_at, Tensor *dy, const void *dy_at,
                                 Convolution *how, int algorithm, void *space, size_t space_bytes, const void *beta, Tensor *dx,
                                 void *dx_at) {
    return start(handle, DATA, algorithm, alpha, beta, dx, dx_at, w, w_at, how, dy, dy_at, space, space_bytes);
}
API cudnnConvolutionBackwardFilter(Handle *handle, const void *alpha, Tensor *x, const void *x_at, Tensor *dy, const void *dy_at,
                                   Convolution *how, int algorithm, void *space, size_t space_bytes, const void *beta, Filter *dw,
                                   void *dw_at) {
    return start(handle, FILTER, algorithm, alpha, beta, x, x_at, dw, dw_at, how, dy, dy_at, space, space_bytes);
}
