// libcuda.so.1, emulated: the calls of CUDA's driver that the engine makes through cudarc, over streams that run their
// work as late as the driver may: when somebody synchronizes. So a missing synchronization shows as old data.
//
// Stricter than the driver where that costs nothing: during a capture, any allocation and any copy from or to memory
// that is not pinned is refused.
#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>

#include "runtime.h"

#define API extern "C" __attribute__((visibility("default"))) int

using namespace emulated;

namespace {

enum Status {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209,
    INVALID_HANDLE = 400,
    ILLEGAL_STATE = 401,
    NOT_FOUND = 500,
    NOT_READY = 600,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_UNMATCHED = 903,
    CAPTURE_ISOLATION = 905,
    CAPTURE_IMPLICIT = 906,
    CAPTURED_EVENT = 907,
    CAPTURE_WRONG_THREAD = 908,
};

struct Name {
    int status;
    const char *name, *text;
};
const Name NAMES[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {ILLEGAL_STATE, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {CAPTURE_UNMATCHED, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED",
     "operation would result in the capture being ended on a stream where it was not begun"},
    {CAPTURE_ISOLATION, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION",
     "dependency created on uncaptured work in another stream"},
    {CAPTURE_IMPLICIT, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {CAPTURED_EVENT, "CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"},
    {CAPTURE_WRONG_THREAD, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD",
     "attempt to terminate a thread-local capture sequence from another thread"},
};

// -------------------------------------------------------------------------------------------------- streams and work
struct Operation {
    std::string name;
    std::function<void()> run;
};

struct Graph {
    std::vector<Operation> operations;
};

enum CaptureMode { GLOBAL = 0, THREAD_LOCAL = 1, RELAXED = 2 };

struct Capture {
    std::unique_ptr<Graph> graph;
    CaptureMode mode;
    std::thread::id thread;
    bool invalid;
};

struct Stream {
    std::deque<Operation> queue;
    std::unique_ptr<Capture> capture;
    bool blocking, running;
};

/// A point in a stream that an event stands for.
struct Point {
    Stream *stream;
    bool reached;
    bool captured;
    std::chrono::steady_clock::time_point time;
};

struct Event {
    std::shared_ptr<Point> point;
};

struct Counts {
    size_t launches, graph_launches, operations, synchronizations;
};

// What lives to the end of the process, so that calls from other libraries' destructors find it.
struct State {
    bool initialized = false;
    std::set<Stream *> streams;
    std::set<Event *> events;
    std::set<Graph *> graphs, executables;
    std::set<void *> modules;
    Stream legacy{{}, nullptr, true, false};
    std::map<std::thread::id, std::unique_ptr<Stream>> per_thread;
    Counts counts{};
};
State &state() {
    static auto *all = new State;
    return *all;
}
thread_local void *current_context;

/// Work that waits in a stream holds what it needs, so little of it is let gather.
constexpr size_t MOST_WAITING = 512;

#define LOCKED std::lock_guard<std::recursive_mutex> guard(big_lock())

void run(const Operation &operation) {
    operation.run();
    state().counts.operations++;
    check_guards(operation.name.c_str());
}

void drain(Stream &stream) {
    if (stream.running) return;  // an operation of this stream asks
    stream.running = true;
    while (!stream.queue.empty()) {
        Operation operation = std::move(stream.queue.front());
        stream.queue.pop_front();
        run(operation);
    }
    stream.running = false;
}

void drain_to(const std::shared_ptr<Point> &point) {
    Stream *stream = point->stream;
    if (point->reached || stream->running) return;
    stream->running = true;
    while (!point->reached && !stream->queue.empty()) {
        Operation operation = std::move(stream->queue.front());
        stream->queue.pop_front();
        run(operation);
    }
    stream->running = false;
}

void drain_blocking() {
    drain(state().legacy);
    for (Stream *stream : state().streams)
        if (stream->blocking) drain(*stream);
    for (auto &[thread, stream] : state().per_thread) drain(*stream);
}

void drain_all() {
    drain_blocking();
    for (Stream *stream : state().streams) drain(*stream);
}

Stream *find_stream(void *handle) {
    auto number = reinterpret_cast<uintptr_t>(handle);
    if (number <= 1) return &state().legacy;
    if (number == 2) {
        auto &own = state().per_thread[std::this_thread::get_id()];
        if (!own) own.reset(new Stream{{}, nullptr, true, false});
        return own.get();
    }
    auto stream = static_cast<Stream *>(handle);
    return state().streams.count(stream) ? stream : nullptr;
}

/// Puts work at the end of a stream, or into the graph that it captures.
int enqueue(Stream &stream, std::string name, std::function<void()> work) {
    if (stream.capture) {
        if (stream.capture->invalid) return CAPTURE_INVALIDATED;
        stream.capture->graph->operations.push_back({std::move(name), std::move(work)});
        return SUCCESS;
    }
    // The legacy stream and blocking streams wait for each other.
    if (&stream == &state().legacy) drain_blocking();
    else if (stream.blocking) drain(state().legacy);
    stream.queue.push_back({std::move(name), std::move(work)});
    if (stream.queue.size() > MOST_WAITING) drain(stream);
    return SUCCESS;
}

int invalidate(Stream &stream, const char *what, int status) {
    fprintf(stderr, "emulator: %s is not permitted while a stream captures\n", what);
    stream.capture->invalid = true;
    return status;
}

/// What is refused while some stream captures, by the rules of that capture's mode.
int refuse_in_capture(const char *what) {
    for (Stream *stream : state().streams) {
        if (!stream->capture) continue;
        bool own = stream->capture->thread == std::this_thread::get_id();
        CaptureMode mode = stream->capture->mode;
        if (mode == GLOBAL || (mode == THREAD_LOCAL && own)) return invalidate(*stream, what, CAPTURE_UNSUPPORTED);
    }
    return SUCCESS;
}

int explain(const char *what, const void *pointer, size_t bytes) {
    fprintf(stderr, "emulator: %s: %zu bytes at %p lie in no single allocation of the device\n", what, bytes, pointer);
    return INVALID_VALUE;
}

#define REQUIRE(condition, status)                                                                                     \
    if (!(condition)) return status
#define NEEDS_CONTEXT                                                                                                  \
    REQUIRE(state().initialized, NOT_INITIALIZED);                                                                     \
    REQUIRE(current_context, INVALID_CONTEXT)
#define FIND_STREAM(handle)                                                                                            \
    Stream *stream = find_stream(handle);                                                                              \
    REQUIRE(stream, INVALID_HANDLE)
#define NOT_IN_CAPTURE(what)                                                                                           \
    if (int refused = refuse_in_capture(what)) return refused

int device_count() {
    const char *asked = getenv("DISTILL_EMULATED_DEVICES");
    return asked ? atoi(asked) : 1;
}

}  // namespace

namespace emulated {
std::recursive_mutex &big_lock() {
    static auto *lock = new std::recursive_mutex;
    return *lock;
}
}  // namespace emulated

// ----------------------------------------------------------------------------------------- for tests and for cuDNN
API emulated_enqueue(void *handle, const char *name, void (*work)(void *), void (*drop)(void *), void *data) {
    LOCKED;
    FIND_STREAM(handle);
    std::shared_ptr<void> held(data, drop);
    return enqueue(*stream, name, [work, held] { work(held.get()); });
}
API emulated_on_device(const void *pointer, size_t bytes) {
    LOCKED;
    return on_device(pointer, bytes);
}
extern "C" __attribute__((visibility("default"))) size_t emulated_count(const char *what) {
    LOCKED;
    const std::string name = what;
    if (name == "allocations") return allocations_made();
    if (name == "launches") return state().counts.launches;
    if (name == "graph launches") return state().counts.graph_launches;
    if (name == "operations") return state().counts.operations;
    if (name == "synchronizations") return state().counts.synchronizations;
    return ~size_t(0);
}

// ------------------------------------------------------------------------------------------------- errors, the device
API cuGetErrorName(int status, const char **name) {
    *name = nullptr;
    for (const Name &known : NAMES)
        if (known.status == status) *name = known.name;
    return *name ? SUCCESS : INVALID_VALUE;
}
API cuGetErrorString(int status, const char **text) {
    *text = nullptr;
    for (const Name &known : NAMES)
        if (known.status == status) *text = known.text;
    return *text ? SUCCESS : INVALID_VALUE;
}
API cuInit(unsigned flags) {
    LOCKED;
    REQUIRE(flags == 0, INVALID_VALUE);
    REQUIRE(device_count() > 0, NO_DEVICE);
    state().initialized = true;
    return SUCCESS;
}
API cuDriverGetVersion(int *version) {
    *version = 13000;
    return SUCCESS;
}
API cuDeviceGetCount(int *count) {
    REQUIRE(state().initialized, NOT_INITIALIZED);
    *count = device_count();
    return SUCCESS;
}
API cuDeviceGet(int *device, int ordinal) {
    REQUIRE(state().initialized, NOT_INITIALIZED);
    REQUIRE(ordinal >= 0 && ordinal < device_count(), INVALID_DEVICE);
    *device = ordinal;
    return SUCCESS;
}
API cuDeviceGetName(char *name, int size, int) {
    snprintf(name, size_t(size), "Emulated GPU");
    return SUCCESS;
}
API cuDeviceGetUuid(char *uuid, int device) {
    memset(uuid, 0, 16);
    uuid[15] = char(device);
    return SUCCESS;
}
API cuDeviceGetUuid_v2(char *uuid, int device) { return cuDeviceGetUuid(uuid, device); }
API cuDeviceTotalMem_v2(size_t *bytes, int) {
    *bytes = DEVICE_BYTES;
    return SUCCESS;
}
/// An H100's, as far as anybody asked.
API cuDeviceGetAttribute(int *value, int attribute, int) {
    REQUIRE(state().initialized, NOT_INITIALIZED);
    static const std::map<int, int> known = {
        {1, 1024},      // threads of a block
        {2, 1024}, {3, 1024}, {4, 64},
        {5, 2147483647}, {6, 65535}, {7, 65535},
        {8, 49152},     // shared memory of a block
        {9, 65536},     // constant memory
        {10, 32},       // lanes of a warp
        {12, 65536},    // registers of a block
        {13, 1785000},  // kHz
        {16, 132},      // multiprocessors
        {31, 1},        // concurrent kernels
        {36, 2619000}, {37, 5120}, {38, 52428800},
        {39, 2048},     // threads of a multiprocessor
        {40, 3}, {41, 1},
        {75, 9}, {76, 0},  // compute capability
        {81, 233472}, {82, 65536}, {83, 1}, {95, 1},
        {97, 232448},   // shared memory of a block that asks for it
        {106, 32},      // blocks of a multiprocessor
        {115, 1},       // memory pools
    };
    auto found = known.find(attribute);
    *value = found == known.end() ? 0 : found->second;
    return SUCCESS;
}

// ----------------------------------------------------------------------------------------------------------- contexts
static char contexts[16];
API cuDevicePrimaryCtxRetain(void **context, int device) {
    LOCKED;
    REQUIRE(state().initialized, NOT_INITIALIZED);
    REQUIRE(device >= 0 && device < device_count() && device < 16, INVALID_DEVICE);
    *context = &contexts[device];
    return SUCCESS;
}
API cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
API cuCtxGetCurrent(void **context) {
    REQUIRE(state().initialized, NOT_INITIALIZED);
    *context = current_context;
    return SUCCESS;
}
API cuCtxSetCurrent(void *context) {
    REQUIRE(state().initialized, NOT_INITIALIZED);
    current_context = context;
    return SUCCESS;
}
API cuCtxGetDevice(int *device) {
    NEEDS_CONTEXT;
    *device = int(static_cast<char *>(current_context) - contexts);
    return SUCCESS;
}
API cuCtxSynchronize() {
    LOCKED;
    NEEDS_CONTEXT;
    NOT_IN_CAPTURE("cuCtxSynchronize");
    state().counts.synchronizations++;
    drain_all();
    return SUCCESS;
}
API cuCtxSetFlags(unsigned) { return SUCCESS; }
API cuCtxSetLimit(int, size_t) { return SUCCESS; }
API cuCtxGetLimit(size_t *value, int) {
    *value = 0;
    return SUCCESS;
}
API cuCtxSetCacheConfig(int) { return SUCCESS; }
API cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    *least = 0;
    *greatest = -5;
    return SUCCESS;
}

// ------------------------------------------------------------------------------------------------------------- memory
API cuMemGetInfo_v2(size_t *free, size_t *total) {
    LOCKED;
    NEEDS_CONTEXT;
    *total = DEVICE_BYTES;
    *free = DEVICE_BYTES - device_bytes_used();
    return SUCCESS;
}
static int take(void **pointer, size_t bytes, bool pinned) {
    REQUIRE(bytes > 0, INVALID_VALUE);
    *pointer = allocate(bytes, pinned);
    return *pointer ? SUCCESS : OUT_OF_MEMORY;
}
API cuMemAlloc_v2(void **pointer, size_t bytes) {
    LOCKED;
    NEEDS_CONTEXT;
    NOT_IN_CAPTURE("cuMemAlloc");
    return take(pointer, bytes, false);
}
API cuMemFree_v2(void *pointer) {
    LOCKED;
    NEEDS_CONTEXT;
    NOT_IN_CAPTURE("cuMemFree");
    if (!pointer) return SUCCESS;
    drain_all();
    return release(pointer, false) ? SUCCESS : INVALID_VALUE;
}
API cuMemAllocAsync(void **pointer, size_t bytes, void *handle) {
    LOCKED;
    NEEDS_CONTEXT;
    FIND_STREAM(handle);
    if (stream->capture) return invalidate(*stream, "cuMemAllocAsync (which the driver would allow)", CAPTURE_UNSUPPORTED);
    return take(pointer, bytes, false);
}
API cuMemAllocFromPoolAsync(void **pointer, size_t bytes, void *, void *handle) {
    return cuMemAllocAsync(pointer, bytes, handle);
}
API cuMemFreeAsync(void *pointer, void *handle) {
    LOCKED;
    NEEDS_CONTEXT;
    FIND_STREAM(handle);
    if (stream->capture) return invalidate(*stream, "cuMemFreeAsync of memory from outside", CAPTURE_UNSUPPORTED);
    REQUIRE(on_device(pointer, 0), INVALID_VALUE);
    return enqueue(*stream, "free", [pointer] {
        if (!release(pointer, false)) fail("memory at %p is freed twice", pointer);
    });
}
API cuMemHostAlloc(void **pointer, size_t bytes, unsigned) {
    LOCKED;
    NEEDS_CONTEXT;
    NOT_IN_CAPTURE("cuMemHostAlloc");
    return take(pointer, bytes, true);
}
API cuMemAllocHost_v2(void **pointer, size_t bytes) { return cuMemHostAlloc(pointer, bytes, 0); }
API cuMemFreeHost(void *pointer) {
    LOCKED;
    NEEDS_CONTEXT;
    NOT_IN_CAPTURE("cuMemFreeHost");
    drain_all();
    return release(pointer, true) ? SUCCESS : INVALID_VALUE;
}
API cuDeviceGetDefaultMemPool(void **pool, int) {
    *pool = contexts;
    return SUCCESS;
}
API cuDeviceGetMemPool(void **pool, int) {
    *pool = contexts;
    return SUCCESS;
}
API cuMemPoolSetAttribute(void *, int, void *) { return SUCCESS; }
API cuMemPoolGetAttribute(void *, int, void *value) {
    *static_cast<uint64_t *>(value) = 0;
    return SUCCESS;
}
API cuMemPoolTrimTo(void *, size_t) { return SUCCESS; }

// ------------------------------------------------------------------------------------------------- copies and filling
/// The legacy stream's: waits for blocking streams alone, as the driver does.
static int before_synchronous_copy(const char *what) {
    NEEDS_CONTEXT;
    for (Stream *stream : state().streams)
        if (stream->capture && stream->capture->mode != RELAXED && stream->capture->thread == std::this_thread::get_id())
            return invalidate(*stream, what, CAPTURE_IMPLICIT);
    drain_blocking();
    return SUCCESS;
}
API cuMemcpyHtoD_v2(void *to, const void *from, size_t bytes) {
    LOCKED;
    if (int status = before_synchronous_copy("cuMemcpyHtoD")) return status;
    if (!on_device(to, bytes)) return explain("cuMemcpyHtoD", to, bytes);
    memcpy(to, from, bytes);
    return SUCCESS;
}
API cuMemcpyDtoH_v2(void *to, const void *from, size_t bytes) {
    LOCKED;
    if (int status = before_synchronous_copy("cuMemcpyDtoH")) return status;
    if (!on_device(from, bytes)) return explain("cuMemcpyDtoH", from, bytes);
    memcpy(to, from, bytes);
    return SUCCESS;
}
API cuMemcpyDtoD_v2(void *to, const void *from, size_t bytes) {
    LOCKED;
    if (int status = before_synchronous_copy("cuMemcpyDtoD")) return status;
    if (!on_device(from, bytes)) return explain("cuMemcpyDtoD", from, bytes);
    if (!on_device(to, bytes)) return explain("cuMemcpyDtoD", to, bytes);
    memmove(to, from, bytes);
    return SUCCESS;
}
API cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t bytes, void *handle) {
    LOCKED;
    NEEDS_CONTEXT;
    FIND_STREAM(handle);
    if (!on_device(to, bytes)) return explain("cuMemcpyHtoDAsync", to, bytes);
    // Pinned memory is read when the stream comes to it, other memory before the call returns.
    if (pinned(from, bytes)) return enqueue(*stream, "copy to the device", [=] { memcpy(to, from, bytes); });
    if (stream->capture) return invalidate(*stream, "a copy from memory that is not pinned", CAPTURE_UNSUPPORTED);
    auto bytes_of = static_cast<const char *>(from);
    auto staged = std::make_shared<std::vector<char>>(bytes_of, bytes_of + bytes);
    return enqueue(*stream, "copy to the device", [=] { memcpy(to, staged->data(), bytes); });
}
API cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t bytes, void *handle) {
    LOCKED;
    NEEDS_CONTEXT;
    FIND_STREAM(handle);
    if (!on_device(from, bytes)) return explain("cuMemcpyDtoHAsync", from, bytes);
    bool is_pinned = pinned(to, bytes);
    if (stream->capture && !is_pinned)
        return invalidate(*stream, "a copy to memory that is not pinned", CAPTURE_UNSUPPORTED);
    int status = enqueue(*stream, "copy to the host", [=] { memcpy(to, from, bytes); });
    // Into other memory the call returns when the copy is done.
    if (!status && !is_pinned) drain(*stream);
    return status;
}
API cuMemcpyDtoDAsync_v2(void *to, const void *from, size_t bytes, void *handle) {
    LOCKED;
    NEEDS_CONTEXT;
    FIND_STREAM(handle);
    if (!on_device(from, bytes)) return explain("cuMemcpyDtoDAsync", from, bytes);
    if (!on_device(to, bytes)) return explain("cuMemcpyDtoDAsync", to, bytes);
    return enqueue(*stream, "copy on the device", [=] { memmove(to, from, bytes); });
}
static int fill(void *to, unsigned value, size_t width, size_t count, void *handle, bool wait) {
    LOCKED;
    NEEDS_CONTEXT;
    FIND_STREAM(handle);
    if (!on_device(to, width * count)) return explain("cuMemset", to, width * count);
    REQUIRE(reinterpret_cast<uintptr_t>(to) % width == 0, INVALID_VALUE);
    int status = enqueue(*stream, "fill", [=] {
        for (size_t at = 0; at < count; at++) memcpy(static_cast<char *>(to) + at * width, &value, width);
    });
    if (!status && wait) drain(*stream);
    return status;
}
API cuMemsetD8_v2(void *to, unsigned char value, size_t count) {
    LOCKED;
    if (int status = before_synchronous_copy("cuMemsetD8")) return status;
    return fill(to, value, 1, count, nullptr, true);
}
API cuMemsetD8Async(void *to, unsigned char value, size_t count, void *stream) { return fill(to, value, 1, count, stream, false); }
API cuMemsetD16Async(void *to, unsigned short value, size_t count, void *stream) {
    return fill(to, value, 2, count, stream, false);
}
API cuMemsetD32Async(void *to, unsigned value, size_t count, void *stream) { return fill(to, value, 4, count, stream, false); }

// --------------------------------------------------------------------------------------------------- streams, events
API cuStreamCreateWithPriority(void **handle, unsigned flags, int) {
    LOCKED;
    NEEDS_CONTEXT;
    REQUIRE(flags <= 1, INVALID_VALUE);
    auto stream = new Stream{{}, nullptr, flags == 0, false};
    state().streams.insert(stream);
    *handle = stream;
    return SUCCESS;
}
API cuStreamCreate(void **handle, unsigned flags) { return cuStreamCreateWithPriority(handle, flags, 0); }
API cuStreamDestroy_v2(void *handle) {
    LOCKED;
    FIND_STREAM(handle);
    drain(*stream);
    REQUIRE(state().streams.erase(stream), INVALID_HANDLE);
    delete stream;
    return SUCCESS;
}
API cuStreamSynchronize(void *handle) {
    LOCKED;
    NEEDS_CONTEXT;
    FIND_STREAM(handle);
    if (stream->capture) return invalidate(*stream, "cuStreamSynchronize", CAPTURE_UNSUPPORTED);
    state().counts.synchronizations++;
    drain(*stream);
    return SUCCESS;
}
API cuStreamQuery(void *handle) {
    LOCKED;
    NEEDS_CONTEXT;
    FIND_STREAM(handle);
    if (stream->capture) return invalidate(*stream, "cuStreamQuery", CAPTURE_UNSUPPORTED);
    if (stream->queue.empty()) return SUCCESS;
    // Who asks again sees it done.
    drain(*stream);
    return NOT_READY;
}
API cuStreamWaitEvent(void *handle, void *event_handle, unsigned) {
    LOCKED;
    NEEDS_CONTEXT;
    FIND_STREAM(handle);
    auto event = static_cast<Event *>(event_handle);
    REQUIRE(state().events.count(event), INVALID_HANDLE);
    std::shared_ptr<Point> point = event->point;
    if (!point) return SUCCESS;
    if (stream->capture && !(point->captured && point->stream == stream))
        return invalidate(*stream, "waiting for an event of work outside", CAPTURE_ISOLATION);
    if (point->captured) return point->stream == stream ? SUCCESS : CAPTURED_EVENT;
    return enqueue(*stream, "wait", [point] { drain_to(point); });
}
API cuStreamAttachMemAsync(void *, void *, size_t, unsigned) { return NOT_SUPPORTED; }
API cuLaunchHostFunc(void *handle, void (*function)(void *), void *data) {
    LOCKED;
    NEEDS_CONTEXT;
    FIND_STREAM(handle);
    return enqueue(*stream, "host function", [=] { function(data); });
}
API cuEventCreate(void **handle, unsigned) {
    LOCKED;
    NEEDS_CONTEXT;
    auto event = new Event;
    state().events.insert(event);
    *handle = event;
    return SUCCESS;
}
API cuEventDestroy_v2(void *handle) {
    LOCKED;
    auto event = static_cast<Event *>(handle);
    REQUIRE(state().events.erase(event), INVALID_HANDLE);
    delete event;
    return SUCCESS;
}
API cuEventRecord(void *handle, void *stream_handle) {
    LOCKED;
    NEEDS_CONTEXT;
    FIND_STREAM(stream_handle);
    auto event = static_cast<Event *>(handle);
    REQUIRE(state().events.count(event), INVALID_HANDLE);
    auto point = std::make_shared<Point>(Point{stream, false, stream->capture != nullptr, {}});
    event->point = point;
    return enqueue(*stream, "event", [point] {
        point->reached = true;
        point->time = std::chrono::steady_clock::now();
    });
}
API cuEventSynchronize(void *handle) {
    LOCKED;
    NEEDS_CONTEXT;
    auto event = static_cast<Event *>(handle);
    REQUIRE(state().events.count(event), INVALID_HANDLE);
    if (!event->point) return SUCCESS;
    REQUIRE(!event->point->captured, CAPTURED_EVENT);
    state().counts.synchronizations++;
    drain_to(event->point);
    return SUCCESS;
}
API cuEventQuery(void *handle) {
    LOCKED;
    NEEDS_CONTEXT;
    auto event = static_cast<Event *>(handle);
    REQUIRE(state().events.count(event), INVALID_HANDLE);
    if (!event->point || event->point->reached) return SUCCESS;
    REQUIRE(!event->point->captured, CAPTURED_EVENT);
    drain_to(event->point);
    return NOT_READY;
}
API cuEventElapsedTime(float *milliseconds, void *start, void *end) {
    LOCKED;
    auto from = static_cast<Event *>(start), to = static_cast<Event *>(end);
    REQUIRE(state().events.count(from) && state().events.count(to), INVALID_HANDLE);
    REQUIRE(from->point && to->point, INVALID_HANDLE);
    REQUIRE(from->point->reached && to->point->reached, NOT_READY);
    *milliseconds = std::chrono::duration<float, std::milli>(to->point->time - from->point->time).count();
    return SUCCESS;
}
API cuEventElapsedTime_v2(float *milliseconds, void *start, void *end) { return cuEventElapsedTime(milliseconds, start, end); }

// ---------------------------------------------------------------------------------------------------- modules, launch
API cuModuleLoadData(void **module, const void *image) {
    LOCKED;
    NEEDS_CONTEXT;
    NOT_IN_CAPTURE("cuModuleLoadData");
    REQUIRE(image, INVALID_VALUE);
    const char expected[] = "emulated kernels";
    REQUIRE(strncmp(static_cast<const char *>(image), expected, sizeof expected - 1) == 0, NO_BINARY_FOR_GPU);
    *module = new char;
    state().modules.insert(*module);
    return SUCCESS;
}
API cuModuleLoadDataEx(void **module, const void *image, unsigned, int *, void **) { return cuModuleLoadData(module, image); }
API cuModuleLoadFatBinary(void **module, const void *image) { return cuModuleLoadData(module, image); }
API cuModuleUnload(void *module) {
    LOCKED;
    drain_all();
    return state().modules.erase(module) ? SUCCESS : INVALID_HANDLE;
}
API cuModuleGetFunction(const Kernel **function, void *module, const char *name) {
    LOCKED;
    NEEDS_CONTEXT;
    REQUIRE(state().modules.count(module), INVALID_HANDLE);
    for (size_t i = 0; i < kernel_count; i++)
        if (strcmp(kernels[i].name, name) == 0) {
            *function = &kernels[i];
            return SUCCESS;
        }
    fprintf(stderr, "emulator: no kernel `%s` among the %zu that it was built with\n", name, kernel_count);
    return NOT_FOUND;
}
API cuModuleGetGlobal_v2(void **, size_t *, void *, const char *) { return NOT_FOUND; }
API cuFuncGetAttribute(int *value, int attribute, const Kernel *kernel) {
    *value = attribute == 0 ? int(kernel->most_threads) : 0;
    return SUCCESS;
}
API cuFuncSetAttribute(const Kernel *, int, int) { return SUCCESS; }
API cuFuncSetCacheConfig(const Kernel *, int) { return SUCCESS; }
API cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const Kernel *, int threads, size_t) {
    REQUIRE(threads > 0, INVALID_VALUE);
    *blocks = std::min(32, 2048 / ((threads + 31) / 32 * 32));
    return SUCCESS;
}
API cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const Kernel *kernel, int threads, size_t shared, unsigned) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, kernel, threads, shared);
}

static int bad_launch(const Kernel &kernel, dim3 grid, dim3 block, const char *why) {
    fprintf(stderr, "emulator: launch of %s with %u x %u x %u blocks of %u x %u x %u threads: %s\n", kernel.name, grid.x,
            grid.y, grid.z, block.x, block.y, block.z, why);
    return INVALID_VALUE;
}
API cuLaunchKernel(const Kernel *kernel, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                   unsigned block_y, unsigned block_z, unsigned shared_bytes, void *handle, void **arguments,
                   void **extra) {
    LOCKED;
    NEEDS_CONTEXT;
    REQUIRE(kernel >= kernels && kernel < kernels + kernel_count, INVALID_HANDLE);
    FIND_STREAM(handle);
    dim3 grid(grid_x, grid_y, grid_z), block(block_x, block_y, block_z);
    auto threads = uint64_t(block_x) * block_y * block_z;
    if (!grid_x || !grid_y || !grid_z || !threads) return bad_launch(*kernel, grid, block, "a size is zero");
    if (grid_x > 2147483647u || grid_y > 65535 || grid_z > 65535) return bad_launch(*kernel, grid, block, "the grid is too large");
    if (block_x > 1024 || block_y > 1024 || block_z > 64 || threads > 1024)
        return bad_launch(*kernel, grid, block, "a block has at most 1024 threads, 64 of them along z");
    if (threads > kernel->most_threads) return bad_launch(*kernel, grid, block, "its __launch_bounds__ are smaller");
    if (shared_bytes) return bad_launch(*kernel, grid, block, "the emulator knows no dynamic shared memory");
    if (extra) return bad_launch(*kernel, grid, block, "the emulator wants arguments one by one");
    Call call = kernel->bind(arguments);
    return enqueue(*stream, kernel->name, [kernel, call, grid, block] {
        run_grid(*kernel, call, grid, block);
        state().counts.launches++;
    });
}

// ----------------------------------------------------------------------------------------------------- capture, graphs
API cuStreamBeginCapture_v2(void *handle, int mode) {
    LOCKED;
    NEEDS_CONTEXT;
    FIND_STREAM(handle);
    REQUIRE(mode >= GLOBAL && mode <= RELAXED, INVALID_VALUE);
    REQUIRE(stream != &state().legacy, CAPTURE_UNSUPPORTED);
    REQUIRE(!stream->capture, ILLEGAL_STATE);
    auto graph = std::make_unique<Graph>();
    stream->capture.reset(new Capture{std::move(graph), CaptureMode(mode), std::this_thread::get_id(), false});
    return SUCCESS;
}
API cuStreamEndCapture(void *handle, Graph **graph) {
    LOCKED;
    NEEDS_CONTEXT;
    FIND_STREAM(handle);
    *graph = nullptr;
    REQUIRE(stream->capture, ILLEGAL_STATE);
    if (stream->capture->mode == THREAD_LOCAL && stream->capture->thread != std::this_thread::get_id())
        return CAPTURE_WRONG_THREAD;
    std::unique_ptr<Capture> capture = std::move(stream->capture);
    REQUIRE(!capture->invalid, CAPTURE_INVALIDATED);
    *graph = capture->graph.release();
    state().graphs.insert(*graph);
    return SUCCESS;
}
API cuStreamIsCapturing(void *handle, int *status) {
    LOCKED;
    FIND_STREAM(handle);
    *status = !stream->capture ? 0 : stream->capture->invalid ? 2 : 1;
    return SUCCESS;
}
API cuGraphInstantiateWithFlags(Graph **executable, Graph *graph, unsigned long long) {
    LOCKED;
    NEEDS_CONTEXT;
    REQUIRE(state().graphs.count(graph), INVALID_VALUE);
    *executable = new Graph(*graph);
    state().executables.insert(*executable);
    return SUCCESS;
}
API cuGraphUpload(Graph *executable, void *handle) {
    LOCKED;
    FIND_STREAM(handle);
    return state().executables.count(executable) ? SUCCESS : INVALID_VALUE;
}
API cuGraphLaunch(Graph *executable, void *handle) {
    LOCKED;
    NEEDS_CONTEXT;
    FIND_STREAM(handle);
    REQUIRE(state().executables.count(executable), INVALID_VALUE);
    return enqueue(*stream, "graph", [executable] {
        if (!state().executables.count(executable)) fail("a graph was destroyed before it ran");
        for (const Operation &operation : executable->operations) run(operation);
        state().counts.graph_launches++;
    });
}
API cuGraphDestroy(Graph *graph) {
    LOCKED;
    REQUIRE(state().graphs.erase(graph), INVALID_VALUE);
    delete graph;
    return SUCCESS;
}
API cuGraphExecDestroy(Graph *executable) {
    LOCKED;
    REQUIRE(state().executables.count(executable), INVALID_VALUE);
    // Launches that were made before are carried out.
    drain_all();
    state().executables.erase(executable);
    delete executable;
    return SUCCESS;
}
API cuGraphGetNodes(Graph *graph, void **, size_t *count) {
    LOCKED;
    REQUIRE(state().graphs.count(graph), INVALID_VALUE);
    *count = graph->operations.size();
    return SUCCESS;
}
API cuProfilerStart() { return SUCCESS; }
API cuProfilerStop() { return SUCCESS; }
