// Tests the emulator itself: what is right comes out right, and each kind of mistake ends the process with its name.
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>
#include <vector>

#include "../emulated_cuda.h"

extern "C" {
typedef int Status;
Status cuInit(unsigned);
Status cuDevicePrimaryCtxRetain(void **, int);
Status cuCtxSetCurrent(void *);
Status cuModuleLoadData(void **, const void *);
Status cuModuleGetFunction(void **, void *, const char *);
Status cuLaunchKernel(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *, void **, void **);
Status cuStreamCreate(void **, unsigned);
Status cuStreamSynchronize(void *);
Status cuStreamBeginCapture_v2(void *, int);
Status cuStreamEndCapture(void *, void **);
Status cuGraphInstantiateWithFlags(void **, void *, unsigned long long);
Status cuGraphLaunch(void *, void *);
Status cuGraphExecDestroy(void *);
Status cuGraphDestroy(void *);
Status cuMemAllocAsync(void **, size_t, void *);
Status cuMemAlloc_v2(void **, size_t);
Status cuMemFree_v2(void *);
Status cuMemHostAlloc(void **, size_t, unsigned);
Status cuMemcpyHtoDAsync_v2(void *, const void *, size_t, void *);
Status cuMemcpyDtoHAsync_v2(void *, const void *, size_t, void *);
Status cuEventCreate(void **, unsigned);
Status cuEventRecord(void *, void *);
Status cuStreamWaitEvent(void *, void *, unsigned);
Status cuMemsetD8Async(void *, unsigned char, size_t, void *);
size_t emulated_count(const char *);
}

static int failures;
static void *stream, *module;

#define EXPECT(condition)                                                                                              \
    if (!(condition)) fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition), failures++
#define OK(call) EXPECT((call) == 0)

template <typename... A>
static Status launch(const char *name, dim3 grid, dim3 block, A... arguments) {
    void *function = nullptr;
    if (Status status = cuModuleGetFunction(&function, module, name)) return status;
    void *addresses[] = {static_cast<void *>(&arguments)..., nullptr};
    return cuLaunchKernel(function, grid.x, grid.y, grid.z, block.x, block.y, block.z, 0, stream, addresses, nullptr);
}

template <typename T>
struct Device {
    T *at = nullptr;
    size_t count;
    explicit Device(size_t count) : count(count) { OK(cuMemAllocAsync(reinterpret_cast<void **>(&at), count * sizeof(T), stream)); }
    explicit Device(const std::vector<T> &values) : Device(values.size()) {
        OK(cuMemcpyHtoDAsync_v2(at, values.data(), count * sizeof(T), stream));
    }
    std::vector<T> read() const {
        std::vector<T> values(count);
        OK(cuMemcpyDtoHAsync_v2(values.data(), at, count * sizeof(T), stream));
        return values;
    }
};

static std::vector<int> counted(int count) {
    std::vector<int> values(count);
    for (int i = 0; i < count; i++) values[i] = i;
    return values;
}

static void computes() {
    std::vector<int> numbers = counted(1000);
    Device<int> from(numbers), to(1000);
    OK(launch("twice_int", 4, 256, to.at, from.at, 1000));
    auto twice = to.read();
    for (int i = 0; i < 1000; i++) EXPECT(twice[i] == 2 * i);

    std::vector<float> rows(5 * 131);
    for (size_t i = 0; i < rows.size(); i++) rows[i] = float(i % 7);
    Device<float> matrix(rows), sums(5);
    OK(launch("row_sum", 5, 96, sums.at, matrix.at, 131));
    auto summed = sums.read();
    for (int row = 0; row < 5; row++) {
        float sum = 0;
        for (int i = 0; i < 131; i++) sum += rows[row * 131 + i];
        EXPECT(summed[row] == sum);
    }

    Device<unsigned> where(12 * 24);
    OK(launch("places", dim3(2, 3, 2), dim3(4, 3, 2), where.at));
    auto found = where.read();
    for (unsigned i = 0; i < 12 * 24; i++) EXPECT(found[i] == i / 24 * 1000 + i % 24);

    Device<int> lanes(192);
    OK(launch("shuffles", 1, 32, lanes.at));
    auto shuffled = lanes.read();
    for (int lane = 0; lane < 32; lane++) {
        EXPECT(shuffled[lane] == (lane + 3 < 32 ? lane + 3 : lane));
        EXPECT(shuffled[32 + lane] == (lane >= 3 ? lane - 3 : lane));
        EXPECT(shuffled[64 + lane] == lane / 8 * 8 + 5);
        EXPECT(unsigned(shuffled[96 + lane]) == 0xaaaaaaaau);
        EXPECT(shuffled[128 + lane] == ((lane ^ 9) / 8 <= lane / 8 ? lane ^ 9 : lane));
        EXPECT(shuffled[160 + lane] == 7);
    }
}

static void a_missing_barrier_shows_in_one_of_two_launches() {
    for (int barrier : {1, 0}) {
        bool right[2];
        for (bool &good : right) {
            Device<int> data(counted(64));
            OK(launch("turn", 1, 64, data.at, barrier));
            auto turned = data.read();
            good = true;
            for (int i = 0; i < 64; i++) good &= turned[i] == 63 - i;
        }
        EXPECT((right[0] && right[1]) == (barrier == 1));
    }
}

static void streams_are_late_and_graphs_replay() {
    int *host;
    OK(cuMemHostAlloc(reinterpret_cast<void **>(&host), 4 * 64, 0));
    Device<int> from(counted(64)), to(64);
    host[5] = -1;
    OK(launch("twice_int", 1, 64, to.at, from.at, 64));
    OK(cuMemcpyDtoHAsync_v2(host, to.at, 4 * 64, stream));
    EXPECT(host[5] == -1);
    OK(cuStreamSynchronize(stream));
    EXPECT(host[5] == 10);

    OK(cuStreamBeginCapture_v2(stream, 1));
    OK(cuMemcpyHtoDAsync_v2(from.at, host, 4 * 64, stream));
    OK(launch("twice_int", 1, 64, to.at, from.at, 64));
    OK(cuMemcpyDtoHAsync_v2(host, to.at, 4 * 64, stream));
    void *graph, *executable;
    OK(cuStreamEndCapture(stream, &graph));
    OK(cuGraphInstantiateWithFlags(&executable, graph, 0));
    OK(cuStreamSynchronize(stream));
    EXPECT(host[5] == 10);
    size_t before = emulated_count("allocations");
    OK(cuGraphLaunch(executable, stream));
    OK(cuGraphLaunch(executable, stream));
    OK(cuStreamSynchronize(stream));
    EXPECT(host[5] == 40);
    EXPECT(emulated_count("allocations") == before);
    OK(cuGraphExecDestroy(executable));
    OK(cuGraphDestroy(graph));

    // What may not be captured ends the capture.
    auto refused = [&](std::function<Status()> call, Status expected) {
        OK(cuStreamBeginCapture_v2(stream, 1));
        EXPECT(call() == expected);
        EXPECT(launch("twice_int", 1, 64, to.at, from.at, 64) == 901);
        EXPECT(cuStreamEndCapture(stream, &graph) == 901);
    };
    void *nowhere, *event;
    int pageable[64];
    OK(cuEventCreate(&event, 0));
    OK(cuEventRecord(event, stream));
    refused([&] { return cuStreamSynchronize(stream); }, 900);
    refused([&] { return cuMemAlloc_v2(&nowhere, 4); }, 900);
    refused([&] { return cuMemAllocAsync(&nowhere, 4, stream); }, 900);
    refused([&] { return cuMemcpyDtoHAsync_v2(pageable, to.at, 4, stream); }, 900);
    refused([&] { return cuStreamWaitEvent(stream, event, 0); }, 905);
}

static void bad_calls_are_refused() {
    Device<float> data(10);
    EXPECT(launch("row_sum", 1, 128, data.at, data.at, 1) == 1);  // above its __launch_bounds__
    EXPECT(launch("places", 1, 1025, data.at) == 1);
    EXPECT(launch("places", 0, 32, data.at) == 1);
    EXPECT(launch("none", 1, 1) == 500);
    EXPECT(cuMemsetD8Async(data.at, 0, 41, stream) == 1);
    EXPECT(cuMemAlloc_v2(reinterpret_cast<void **>(&data.at), size_t(1) << 40) == 2);
    void *other;
    EXPECT(cuModuleLoadData(&other, "\x50\xed\x55\xba") == 209);
    auto fresh = Device<float>(3).read();
    EXPECT(std::isnan(fresh[0]) && std::isnan(fresh[2]));
}

/// Runs in a child and returns what it says before it dies; empty if it lives.
static std::string last_words(std::function<void()> work) {
    int pipes[2];
    if (pipe(pipes)) abort();
    fflush(stderr);
    pid_t child = fork();
    if (child == 0) {
        dup2(pipes[1], 2);
        close(pipes[0]);
        work();
        cuStreamSynchronize(stream);
        _exit(0);
    }
    close(pipes[1]);
    std::string said;
    char buffer[4096];
    for (ssize_t got; (got = read(pipes[0], buffer, sizeof buffer)) > 0;) said.append(buffer, size_t(got));
    close(pipes[0]);
    int status;
    waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? "" : said;
}

static void dies(const char *with, std::function<void()> work) {
    std::string said = last_words(work);
    if (said.find(with) == std::string::npos) {
        fprintf(stderr, "expected a death with `%s`, found `%s`\n", with, said.c_str());
        failures++;
    }
}

static void mistakes_are_named() {
    Device<float> data(10);
    dies("byte 40 of an allocation of 40 bytes was written", [&] { launch("past_the_end", 1, 1, data.at, 10); });
    dies("byte -4 of an allocation of 40 bytes was written", [&] { launch("past_the_end", 1, 1, data.at, -1); });
    dies("kernel far_past_the_end, block (0, 0, 0) of (1, 1, 1), thread (0, 0, 0)", [&] { launch("far_past_the_end", 1, 1, data.at); });
    dies("kernel lonely_barrier, block (1, 0, 0) cannot go on", [&] { launch("lonely_barrier", 2, 64); });
    dies("different barriers", [&] { launch("two_barriers", 1, 64); });
    dies("of device memory of 40 bytes that was freed", [&] {
        cuMemFree_v2(data.at);
        launch("writes_through", 1, 1, (unsigned long long)data.at);
    });
#ifdef CHECKED
    dies("misaligned address", [&] { launch("misaligned", 1, 1, data.at, 1); });
    dies("out of bounds", [&] { launch("shared_overrun", 1, 1, data.at, 8); });
#endif
}

int main() {
    void *context;
    OK(cuInit(0));
    OK(cuDevicePrimaryCtxRetain(&context, 0));
    OK(cuCtxSetCurrent(context));
    OK(cuModuleLoadData(&module, "emulated kernels"));
    OK(cuStreamCreate(&stream, 1));
    computes();
    a_missing_barrier_shows_in_one_of_two_launches();
    streams_are_late_and_graphs_replay();
    bad_calls_are_refused();
    mistakes_are_named();
    fprintf(stderr, failures ? "emulator: %d expectations failed\n" : "emulator: all as expected\n", failures);
    return failures != 0;
}
