// The device's memory and pinned memory: every allocation stands alone between pages that nobody may touch, as near to
// the one behind it as CUDA's alignment lets it, and what is left over is filled with a pattern that is looked at after
// every operation. What lies inside one allocation is not told apart.
#include "runtime.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <deque>
#include <map>

namespace emulated {
namespace {

constexpr size_t ALIGNMENT = 256;
constexpr size_t WATCHED = 256;
constexpr unsigned char PATTERN = 0xa5;
/// What lies untouchable on either side of an allocation.
constexpr size_t FENCE = size_t(16) << 20;
/// Freed addresses that are kept from being given out again.
constexpr size_t QUARANTINE = 512;

struct Allocation {
    char *map;
    size_t map_bytes;
    size_t bytes;
    bool pinned, freed;
};

// Never destroyed: other libraries' destructors free memory at the end of the process.
std::map<uintptr_t, Allocation> &allocations() {
    static auto *all = new std::map<uintptr_t, Allocation>;
    return *all;
}
std::deque<uintptr_t> &quarantine() {
    static auto *all = new std::deque<uintptr_t>;
    return *all;
}
size_t used, made;

size_t page() {
    static size_t bytes = size_t(sysconf(_SC_PAGESIZE));
    return bytes;
}

const std::pair<const uintptr_t, Allocation> *holder(uintptr_t at) {
    auto after = allocations().upper_bound(at);
    if (after == allocations().begin()) return nullptr;
    return &*--after;
}

bool lies_in(const void *pointer, size_t bytes, bool pinned) {
    auto at = reinterpret_cast<uintptr_t>(pointer);
    auto found = holder(at);
    if (!found || found->second.freed || found->second.pinned != pinned) return false;
    return at - found->first <= found->second.bytes && bytes <= found->second.bytes - (at - found->first);
}

struct sigaction previous_fault;

void describe_address(uintptr_t at, char *to, size_t size) {
    for (const auto &[start, allocation] : allocations()) {
        auto map = reinterpret_cast<uintptr_t>(allocation.map);
        if (at < map || at >= map + allocation.map_bytes) continue;
        long long into = (long long)at - (long long)start;
        const char *kind = allocation.pinned ? "pinned memory" : "device memory";
        if (allocation.freed) snprintf(to, size, "byte %lld of %s of %zu bytes that was freed", into, kind, allocation.bytes);
        else snprintf(to, size, "byte %lld of %s of %zu bytes", into, kind, allocation.bytes);
        return;
    }
    snprintf(to, size, "no memory of the device");
}

/// A fault in a kernel is said in the kernel's terms; any other is left to whom it was left before.
void on_fault(int signal, siginfo_t *info, void *context) {
    char place[400], address[200];
    describe_place(place, sizeof place);
    auto at = reinterpret_cast<uintptr_t>(info->si_addr);
    describe_address(at, address, sizeof address);
    bool ours = strncmp(place, "kernel", 6) == 0 || strncmp(address, "byte", 4) == 0;
    if (ours) {
        fprintf(stderr, "emulator: illegal access to %p: %s\nemulator: %s\n", info->si_addr, address, place);
        ::signal(SIGABRT, SIG_DFL);
        abort();
    }
    if (previous_fault.sa_flags & SA_SIGINFO && previous_fault.sa_sigaction)
        return previous_fault.sa_sigaction(signal, info, context);
    sigaction(signal, &previous_fault, nullptr);
}

void watch_faults() {
    static bool watched;
    if (watched) return;
    watched = true;
    struct sigaction action{};
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, &previous_fault);
}

void check(uintptr_t start, const Allocation &allocation, const char *after) {
    auto data = reinterpret_cast<const unsigned char *>(start);
    auto begin = reinterpret_cast<const unsigned char *>(allocation.map + FENCE);
    auto end = reinterpret_cast<const unsigned char *>(allocation.map + allocation.map_bytes - FENCE);
    auto complain = [&](const unsigned char *at) {
        fail("byte %td of an allocation of %zu bytes was written (found after: %s)", at - data, allocation.bytes, after);
    };
    for (auto at = std::max(begin, data - WATCHED); at < data; at++)
        if (*at != PATTERN) complain(at);
    for (auto at = data + allocation.bytes; at < end; at++)
        if (*at != PATTERN) complain(at);
}

}  // namespace

void *allocate(size_t bytes, bool pinned) {
    watch_faults();
    if (bytes > DEVICE_BYTES - used) return nullptr;
    size_t room = (std::max(bytes, size_t(1)) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    size_t pages = (room + page() - 1) / page() * page();
    size_t map_bytes = pages + 2 * FENCE;
    auto map = static_cast<char *>(
        mmap(nullptr, map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (map == MAP_FAILED) return nullptr;
    if (mprotect(map + FENCE, pages, PROT_READ | PROT_WRITE)) {
        munmap(map, map_bytes);
        return nullptr;
    }
    char *data = map + FENCE + pages - room;
    memset(map + FENCE, PATTERN, size_t(data - map) - FENCE);
    memset(data, 0xff, bytes);
    memset(data + bytes, PATTERN, room - bytes);
    allocations()[reinterpret_cast<uintptr_t>(data)] = {map, map_bytes, bytes, pinned, false};
    made++;
    if (!pinned) used += bytes;
    return data;
}

bool release(void *pointer, bool pinned) {
    auto found = allocations().find(reinterpret_cast<uintptr_t>(pointer));
    if (found == allocations().end() || found->second.freed || found->second.pinned != pinned) return false;
    Allocation &allocation = found->second;
    check(found->first, allocation, "free");
    if (!pinned) used -= allocation.bytes;
    allocation.freed = true;
    mmap(allocation.map, allocation.map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    quarantine().push_back(found->first);
    if (quarantine().size() > QUARANTINE) {
        auto oldest = allocations().find(quarantine().front());
        quarantine().pop_front();
        munmap(oldest->second.map, oldest->second.map_bytes);
        allocations().erase(oldest);
    }
    return true;
}

bool on_device(const void *pointer, size_t bytes) { return lies_in(pointer, bytes, false); }
bool pinned(const void *pointer, size_t bytes) { return lies_in(pointer, bytes, true); }
size_t device_bytes_used() { return used; }
size_t allocations_made() { return made; }

void check_guards(const char *after) {
    for (const auto &[start, allocation] : allocations())
        if (!allocation.freed) check(start, allocation, after);
}

}  // namespace emulated
