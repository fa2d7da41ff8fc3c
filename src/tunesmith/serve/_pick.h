// Sampling of a decoding step on a CPU: guidance, temperature, top-k, top-p, and a draw by inversion.

#pragma once

#include <algorithm>
#include <cstring>

#include "_step.h"

namespace {

struct Choice { // how a slot is sampled
    float guidance, temperature, mass; // mass 2: all of it
    int64_t keep, greedy;
};

constexpr int BINS = 4096; // of the highest 12 bits: sign, exponent and 3 bits more

// A number's bits in the order of the numbers.
inline uint32_t ordered(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

inline float number(uint64_t key) {
    const uint32_t high = key >> 32, bits = high & 0x80000000u ? high & 0x7fffffffu : ~high;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline int64_t code(uint64_t key) { return ~static_cast<uint32_t>(key); }

// The `keep` largest of `keys`, the largest first, equal ones by code. Only those that may be among them
// are sorted: a count of the highest bits says which.
inline void largest(uint64_t *keys, uint64_t *found, int64_t count, int64_t keep) {
    uint32_t bins[BINS] = {};
    for (int64_t i = 0; i < count; i++) bins[keys[i] >> 52]++;
    int64_t sure = 0, bin = BINS;
    while (bin > 0 && sure < keep) sure += bins[--bin];
    int64_t n = 0;
    for (int64_t i = 0; i < count; i++)
        if (static_cast<int64_t>(keys[i] >> 52) >= bin) found[n++] = keys[i];
    std::sort(found, found + n, std::greater<uint64_t>());
}

// A code for one codebook; room for 2 V keys and V + 16 numbers. `sum` is of all that it chose from: no
// number if one of them is none.
STAGE choose(const Choice &how, const float *given, const float *without, int64_t codes, float uniform,
             uint64_t *room, int64_t &chosen, float &sum) {
    uint64_t *keys = room, *found = room + codes;
    float *share = reinterpret_cast<float *>(room + 2 * codes);
    sum = 0.0f;
    for (int64_t v = 0; v < codes; v++) {
        float value = given[v];
        if (how.guidance != 1.0f) value = without[v] + how.guidance * (given[v] - without[v]);
        sum += value;
        keys[v] = static_cast<uint64_t>(ordered(value)) << 32 | ~static_cast<uint32_t>(v);
    }
    const int64_t keep = how.greedy ? 1 : how.keep;
    largest(keys, found, codes, keep);
    chosen = code(found[0]);
    if (how.greedy) return;
    const float most = number(found[0]) / how.temperature;
    for (int64_t i = 0; i < keep; i++) share[i] = number(found[i]) / how.temperature - most;
    for (int64_t i = keep; i % LANES; i++) share[i] = -INFINITY;
    double whole = 0.0, seen = 0.0, kept = 0.0;
    for (int64_t i = 0; i < keep; i += LANES) {
        put(share + i, exponential(at(share + i)));
        for (int64_t lane = 0; lane < LANES; lane++) whole += share[i + lane];
    }
    int64_t last = 0;
    for (; last < keep && seen < how.mass * whole; last++) kept = seen += share[last];
    const double threshold = uniform * kept;
    seen = share[0];
    int64_t rank = 0;
    while (rank < last - 1 && seen <= threshold) seen += share[++rank];
    chosen = code(found[rank]);
}

} // namespace
