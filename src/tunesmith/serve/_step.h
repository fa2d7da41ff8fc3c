// Vectors of numbers, and threads that share a step: what _step.cpp stands on.

#pragma once

#include <atomic>
#include <cmath>
#include <cstdint>
#include <thread>

#define STAGE __attribute__((noinline)) void

namespace {

constexpr int64_t LANES = 16;                             // numbers in a vector
constexpr int PATIENCE = 4000;                            // looks at a barrier before others may run
typedef float Vector __attribute__((vector_size(64)));
typedef float Loose __attribute__((vector_size(64), aligned(4)));
typedef int32_t Whole __attribute__((vector_size(64)));

// --- threads ---

struct Part { // of the work: a thread's
    int64_t number, of;
    void range(int64_t items, int64_t &begin, int64_t &end) const {
        begin = items * number / of;
        end = items * (number + 1) / of;
    }
};

// Where threads meet. OpenMP's own puts them to sleep at once where the process has threads of OpenMP
// beside these, as a server has: woken some hundred times a step, they doubled its time. Here they look
// again for a while, then let others run.
class Barrier {
    std::atomic<int> here{0}, turn{0};

  public:
    void meet(int of) {
        const int now = turn.load(std::memory_order_relaxed);
        if (here.fetch_add(1, std::memory_order_acq_rel) + 1 == of) {
            here.store(0, std::memory_order_relaxed);
            turn.store(now + 1, std::memory_order_release);
            return;
        }
        for (int looked = 0; turn.load(std::memory_order_acquire) == now; looked++) {
            if (looked > PATIENCE) std::this_thread::yield();
#ifdef __x86_64__
            else __builtin_ia32_pause();
#endif
        }
    }
};

// --- vectors ---

inline Vector at(const float *from) { return *reinterpret_cast<const Loose *>(from); }
inline void put(float *to, Vector v) { *reinterpret_cast<Loose *>(to) = v; }

inline float sum(Vector v) {
    typedef float Half __attribute__((vector_size(32)));
    typedef float Quarter __attribute__((vector_size(16)));
    Half h = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
             __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
    Quarter q = __builtin_shufflevector(h, h, 0, 1, 2, 3) + __builtin_shufflevector(h, h, 4, 5, 6, 7);
    return (q[0] + q[2]) + (q[1] + q[3]);
}

// e^v to 2 units in the last place (Cephes' polynomial); below -87 it is 0, NaN stays.
inline Vector exponential(Vector v) {
    const Vector low = Vector{} - 87.0f, high = Vector{} + 88.0f;
    const Whole small = v < low;
    Vector x = small ? low : v;
    x = x > high ? high : x;
    const Vector magic = Vector{} + 12582912.0f; // rounds to a whole number
    const Vector n = (x * 1.44269504f + magic) - magic;
    const Vector r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    Vector p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const Whole power = (__builtin_convertvector(n, Whole) + 127) << 23;
    p *= (Vector)power; // the same bits
    return small ? Vector{} : p;
}

// x Phi(x), with erf by Abramowitz and Stegun 7.1.26 (error below 1.5e-7).
inline Vector gelu(Vector x) {
    const Vector z = x * 0.70710678f, a = z < 0.0f ? -z : z;
    const Vector t = 1.0f / (1.0f + 0.3275911f * a);
    Vector p = t * 1.061405429f - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const Vector tail = p * t * exponential(-a * a); // 1 - erf(a)
    return 0.5f * x * (z < 0.0f ? tail : 2.0f - tail);
}

} // namespace
