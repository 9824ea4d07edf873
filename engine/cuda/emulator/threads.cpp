// Runs the threads of a block as fibers, one at a time, in an order that is known.
//
// A fiber runs thread after thread until one of them waits; that thread then owns the fiber until it ends. So a kernel
// without barriers is a plain loop. When nobody can go on, what each waits for is looked at: either all living threads
// (of the block, or of the warp as far as named) came for the same, or the process ends with what was found.
#include "runtime.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <deque>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

extern "C" {
uint3 emulated_thread_index, emulated_block_index;
dim3 emulated_block_size, emulated_grid_size;
// Around what the kernels' __shared__ is made of; see build.sh.
extern __attribute__((visibility("hidden"))) char emulated_shared_begin[], emulated_shared_end[];
}

namespace emulated {
namespace {

constexpr size_t STACK_BYTES = 128 << 10;

// --------------------------------------------------------------------------------------------------------- switching
#if defined(__x86_64__)
struct Fiber {
    void *top;
};
extern "C" __attribute__((visibility("hidden"))) void emulated_switch(void **save, void *to);
asm(R"(
.text
.local emulated_switch
.type emulated_switch, @function
emulated_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size emulated_switch, .-emulated_switch
)");
void change(Fiber &from, Fiber &to) { emulated_switch(&from.top, to.top); }
void prepare(Fiber &fiber, char *stack, void (*entry)()) {
    auto top = reinterpret_cast<void **>(stack + STACK_BYTES);
    *--top = nullptr;  // where the entry would return to; also what the calling convention wants of the alignment
    *--top = reinterpret_cast<void *>(entry);
    for (int i = 0; i < 6; i++) *--top = nullptr;
    fiber.top = top;
}
#else
struct Fiber {
    ucontext_t context;
};
void change(Fiber &from, Fiber &to) { swapcontext(&from.context, &to.context); }
void prepare(Fiber &fiber, char *stack, void (*entry)()) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stack;
    fiber.context.uc_stack.ss_size = STACK_BYTES;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, entry, 0);
}
#endif

// ------------------------------------------------------------------------------------------------------------- state
struct Thread {
    uint3 index;
    Fiber *fiber;
    Meeting waits;
    unsigned mask;
    unsigned long long bits, result;
    int source;
    const char *file;
    int line;
    bool ended;
};

const Kernel *running_kernel;
const Call *running_call;
std::vector<Thread> threads;  // by linear index
std::vector<Fiber *> idle;    // fibers without a thread
std::deque<Thread *> ready;   // released, to be gone on with
Fiber scheduler, *running;
Thread *current;
size_t started;
bool descending;

size_t ordered(size_t nth) { return descending ? threads.size() - 1 - nth : nth; }

void become(Thread *thread) {
    current = thread;
    if (thread) emulated_thread_index = thread->index;
}

/// What a fiber does: threads that nobody has started yet, one after the other, then nothing until wanted again.
void live() {
    for (;;) {
        while (started < threads.size()) {
            become(&threads[ordered(started++)]);
            (*running_call)();
            current->ended = true;
        }
        become(nullptr);
        idle.push_back(running);
        change(*running, scheduler);
    }
}

Fiber *take_fiber() {
    if (!idle.empty()) {
        Fiber *fiber = idle.back();
        idle.pop_back();
        return fiber;
    }
    size_t page = size_t(sysconf(_SC_PAGESIZE));
    char *memory = static_cast<char *>(
        mmap(nullptr, STACK_BYTES + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (memory == MAP_FAILED) fail("no memory for a thread's stack");
    mprotect(memory, page, PROT_NONE);
    auto fiber = new Fiber{};
    prepare(*fiber, memory + page, live);
    return fiber;
}

void resume(Fiber *fiber) {
    running = fiber;
    change(scheduler, *fiber);
}

// --------------------------------------------------------------------------------------------------------- rendezvous
bool of_block(Meeting kind) { return kind >= Meeting::Barrier && kind <= Meeting::BarrierOr; }

const char *name_of(Meeting kind) {
    switch (kind) {
        case Meeting::None: return "nothing";
        case Meeting::Barrier: return "__syncthreads";
        case Meeting::BarrierCount: return "__syncthreads_count";
        case Meeting::BarrierAnd: return "__syncthreads_and";
        case Meeting::BarrierOr: return "__syncthreads_or";
        case Meeting::Warp: return "__syncwarp";
        case Meeting::Shuffle: return "a shuffle";
        case Meeting::Ballot: return "a vote";
    }
    return "?";
}

void say(const char *what, const Thread &thread) {
    fprintf(stderr, "  %s thread (%u, %u, %u)", what, thread.index.x, thread.index.y, thread.index.z);
    if (thread.ended) fprintf(stderr, ": ended\n");
    else fprintf(stderr, ": waits at %s, %s:%d, mask %08x\n", name_of(thread.waits), thread.file, thread.line, thread.mask);
}

[[noreturn]] void mismatch(const char *what, const Thread &one, const Thread &other) {
    fprintf(stderr, "emulator: %s\n", what);
    say("one:  ", one);
    say("other:", other);
    become(const_cast<Thread *>(&one));
    fail("threads that must meet do not");
}

/// Whether every living thread of the block waits at the block's barrier; at different ones is an error.
bool barrier_is_full() {
    const Thread *first = nullptr;
    for (const Thread &thread : threads) {
        if (thread.ended) continue;
        if (!of_block(thread.waits)) return false;
        if (!first) first = &thread;
        else if (thread.waits != first->waits || thread.line != first->line || thread.file != first->file)
            mismatch("threads of a block wait at different barriers", *first, thread);
    }
    return first != nullptr;
}

void release(Thread &thread, unsigned long long result) {
    thread.waits = Meeting::None;
    thread.result = result;
    ready.push_back(&thread);
}

void open_barrier() {
    size_t living = 0, yes = 0;
    for (const Thread &thread : threads) {
        living += !thread.ended;
        yes += !thread.ended && thread.bits;
    }
    for (size_t nth = 0; nth < threads.size(); nth++) {
        Thread &thread = threads[ordered(nth)];
        if (thread.ended) continue;
        switch (thread.waits) {
            case Meeting::BarrierCount: release(thread, yes); break;
            case Meeting::BarrierAnd: release(thread, yes == living); break;
            case Meeting::BarrierOr: release(thread, yes > 0); break;
            default: release(thread, 0);
        }
    }
}

/// The lanes that `thread`, who waits for its warp, is to meet; empty if one of them is not there yet.
bool gather(size_t warp, const Thread &thread, std::vector<Thread *> &lanes) {
    lanes.assign(32, nullptr);
    for (size_t lane = 0; lane < 32 && warp * 32 + lane < threads.size(); lane++) {
        Thread &other = threads[warp * 32 + lane];
        // Threads that have ended may be named; what is read from them is undefined.
        if (!(thread.mask >> lane & 1) || other.ended) continue;
        if (other.waits == Meeting::None || of_block(other.waits)) return false;
        if (other.mask != thread.mask || other.waits != thread.waits || other.line != thread.line)
            mismatch("lanes that name each other came to different exchanges", thread, other);
        lanes[lane] = &other;
    }
    return true;
}

bool open_warps() {
    bool opened = false;
    std::vector<Thread *> lanes;
    for (size_t warp = 0; warp * 32 < threads.size(); warp++) {
        for (size_t lane = 0; lane < 32 && warp * 32 + lane < threads.size(); lane++) {
            Thread &thread = threads[warp * 32 + lane];
            if (thread.ended || thread.waits == Meeting::None || of_block(thread.waits)) continue;
            if (!gather(warp, thread, lanes)) continue;
            unsigned votes = 0;
            for (int at = 0; at < 32; at++) votes |= (lanes[at] && lanes[at]->bits ? 1u : 0u) << at;
            for (size_t nth = 0; nth < 32; nth++) {
                Thread *other = lanes[descending ? 31 - nth : nth];
                if (!other) continue;
                Thread *from = other->source >= 0 && other->source < 32 ? lanes[other->source] : nullptr;
                // Undefined by CUDA's rules: all ones, a NaN.
                unsigned long long read = from ? from->bits : ~0ull;
                Meeting kind = other->waits;
                release(*other, kind == Meeting::Ballot ? votes : kind == Meeting::Shuffle ? read : 0);
            }
            opened = true;
        }
    }
    return opened;
}

[[noreturn]] void stuck() {
    fprintf(stderr, "emulator: kernel %s, block (%u, %u, %u) cannot go on: not all living threads come to where some wait\n",
            running_kernel->name, emulated_block_index.x, emulated_block_index.y, emulated_block_index.z);
    int said = 0;
    for (const Thread &thread : threads) {
        if (said++ == 40) break;
        say("      ", thread);
    }
    fail("a barrier or exchange is not reached by all");
}

void run_block() {
    started = 0;
    for (Thread &thread : threads) thread.ended = false, thread.waits = Meeting::None;
    while (started < threads.size()) resume(take_fiber());
    for (;;) {
        while (!ready.empty()) {
            Thread *thread = ready.front();
            ready.pop_front();
            become(thread);
            resume(thread->fiber);
        }
        if (open_warps()) continue;
        if (std::all_of(threads.begin(), threads.end(), [](const Thread &thread) { return thread.ended; })) return;
        if (!barrier_is_full()) stuck();
        open_barrier();
    }
}

}  // namespace

unsigned long long meet(
    Meeting kind, unsigned mask, unsigned long long bits, int source, const char *file, int line) {
    Thread *self = current;
    if (!self) fail("a barrier outside of a kernel");
    self->waits = kind, self->mask = mask, self->bits = bits, self->source = source;
    self->file = file, self->line = line;
    if (!of_block(kind) && !(mask >> lane() & 1)) complain("the mask does not name the lane that calls", file, line);
    self->fiber = running;
    change(*self->fiber, scheduler);
    become(self);
    return self->result;
}

int lane() { return int((current - threads.data()) % 32); }

void complain(const char *what, const char *file, int line) { fail("%s (%s:%d)", what, file, line); }

void run_grid(const Kernel &kernel, const Call &call, dim3 grid, dim3 block) {
    static size_t launches;
    descending = launches++ % 2;
    running_kernel = &kernel;
    running_call = &call;
    // What an earlier launch left there is not what this one may find.
    char *shared = emulated_shared_begin, *shared_end = emulated_shared_end;
    if (shared < shared_end) memset(shared, 0xff, size_t(shared_end - shared));
    emulated_grid_size = grid;
    emulated_block_size = block;
    threads.assign(size_t(block.x) * block.y * block.z, Thread{});
    for (size_t i = 0; i < threads.size(); i++) {
        unsigned at = unsigned(i);
        threads[i].index = {at % block.x, at / block.x % block.y, at / block.x / block.y};
    }
    uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
    for (uint64_t nth = 0; nth < blocks; nth++) {
        uint64_t at = descending ? blocks - 1 - nth : nth;
        emulated_block_index = {unsigned(at % grid.x), unsigned(at / grid.x % grid.y), unsigned(at / grid.x / grid.y)};
        run_block();
    }
    running_kernel = nullptr;
    become(nullptr);
}

void describe_place(char *to, size_t size) {
    if (!running_kernel) {
        snprintf(to, size, "no kernel runs");
        return;
    }
    const uint3 &block = emulated_block_index, &thread = emulated_thread_index;
    snprintf(to, size, "kernel %s, block (%u, %u, %u) of (%u, %u, %u), thread (%u, %u, %u) of (%u, %u, %u)",
             running_kernel->name, block.x, block.y, block.z, emulated_grid_size.x, emulated_grid_size.y,
             emulated_grid_size.z, thread.x, thread.y, thread.z, emulated_block_size.x, emulated_block_size.y,
             emulated_block_size.z);
}

void fail(const char *format, ...) {
    char place[400];
    describe_place(place, sizeof place);
    fprintf(stderr, "emulator: ");
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, "\nemulator: %s\n", place);
    abort();
}

}  // namespace emulated
