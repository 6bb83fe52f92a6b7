// Rows of both associations and of the gradient of their symmetric KL: one row after the other, while it is in the
// first cache. The formulas are those of advit/divergence.py and advit/minimax_attention.py, which call S the
// series-association, P the prior-association, D^2 the squared distance.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

// A loop with exp and log in it must become vector instructions. A math library gives a compiler none on every system,
// hence two polynomials for float (double, for checks, takes the library's), fitted at Chebyshev points to
// (exp(f) - 1 - f) / f^2 and (log(1 + f) - f + f^2 / 2) / f^3. Largest errors, in units in the last place: exp 1.1,
// log 0.9; PyTorch's vector instructions: 0.6 and 1.0.
constexpr float LOG2_HIGH = 0.693145751953125f, LOG2_LOW = 1.42860682030941723e-6f;  // n times the first is exact
constexpr float EXP[] = {1.3933643931522965e-3f, 8.363175205886364e-3f, 4.166646674275398e-2f, 1.6666576266288757e-1f,
                         0.5f};
constexpr float LOG[] = {0.07149753719568253f, -0.115712009370327f,   0.11661510914564133f,
                         -0.12411050498485565f, 0.14249937236309052f, -0.1666848063468933f,
                         0.20000708103179932f, -0.24999989569187164f, 0.3333333134651184f};

static inline double exp_of(double x) { return std::exp(x); }
static inline double log_of(double x) { return std::log(x); }

static inline float exp_of(float x) {  // -87 < x < 88; NaN stays NaN
    const float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // 1.5 * 2^23: rounds to a whole number
    const float f = (x - n * LOG2_HIGH) - n * LOG2_LOW;
    float g = EXP[0];
    for (int i = 1; i < 5; i++) g = g * f + EXP[i];
    const int32_t bits = ((int32_t)n + 127) * (1 << 23);
    float power;
    std::memcpy(&power, &bits, 4);
    return (1 + (f + f * f * g)) * power;
}

static inline float log_of(float x) {  // of a positive number that is not denormal; not NaN of NaN
    int32_t bits;
    std::memcpy(&bits, &x, 4);
    const int32_t n = (bits - 0x3f3504f3) >> 23;  // sqrt(1/2) <= x / 2^n < sqrt(2)
    bits -= n * (1 << 23);
    float m;
    std::memcpy(&m, &bits, 4);
    const float f = m - 1, e = (float)n;
    float h = LOG[0];
    for (int i = 1; i < 9; i++) h = h * f + LOG[i];
    return e * LOG2_HIGH + (f + (f * f * (h * f - 0.5f) + e * LOG2_LOW));
}

// exp(x), no exponent below `lowest`: advit.precision.LOWEST
template <typename T> static inline T floored_exp(T x, T lowest) { return exp_of(x < lowest ? lowest : x); }

// The largest of n numbers, 32 at a time: not every compiler makes vectors of a search that a NaN could be in.
template <typename T> static inline T largest(const T* x, int64_t n) {
    constexpr int AT_A_TIME = 32;
    T most[AT_A_TIME], found = x[0];
    for (int i = 0; i < AT_A_TIME; i++) most[i] = x[0];
    int64_t j = 0;
    for (; j + AT_A_TIME <= n; j += AT_A_TIME)
        for (int i = 0; i < AT_A_TIME; i++) most[i] = x[j + i] > most[i] ? x[j + i] : most[i];
    for (; j < n; j++) found = x[j] > found ? x[j] : found;
    for (int i = 0; i < AT_A_TIME; i++) found = most[i] > found ? most[i] : found;
    return found;
}

// What is found of a row: value, E[h], d value / d a, and the largest logit, S and P.
constexpr int FOUND = 6, PEAKS = 3;  // numbers, and the place of the last three

// `s`, logits, become S, or with a `weight` the gradient of the weighted value towards them. What is `found` lies
// `next` apart; `room` has 2 n numbers.
template <typename T>
static void divergence_row(T* s, T* found, int64_t next, T a, const T* d2, const T* weight, T eps, T lowest, int64_t n,
                           T* room) {
    const T c = eps / (n * (1 - eps)), minus_a = -a;
    T *p = room, *s_h = room + n, s_sum = 0, p_sum = 0;
    const T peak = largest(s, n);
#pragma omp simd reduction(+ : s_sum)
    for (int64_t j = 0; j < n; j++) {
        s[j] = floored_exp(s[j] - peak, lowest);
        s_sum += s[j];
    }
#pragma omp simd reduction(+ : p_sum)
    for (int64_t j = 0; j < n; j++) {
        p[j] = floored_exp(d2[j] * minus_a, lowest);
        p_sum += p[j];
    }
    const T s_most = 1 / s_sum, p_most = 1 / p_sum;
    T value = 0, mean_h = 0, mean_g = 0, g_d2 = 0, p_d2 = 0;  // g less 1: near 0 where S is near P
#pragma omp simd reduction(+ : value, mean_h, mean_g, g_d2, p_d2)
    for (int64_t j = 0; j < n; j++) {
        const T sj = s[j] * s_most, pj = p[j] * p_most, t = (sj + c) / (pj + c), log_t = log_of(t);
        const T h = sj * (log_t - 1 / t), g = pj * (log_t + (t - 1));
        value += (sj - pj) * log_t;
        mean_h += h;
        mean_g += g;
        g_d2 += g * d2[j];
        p_d2 += pj * d2[j];
        s[j] = sj;
        s_h[j] = h;
    }
    const T of_row[] = {(1 - eps) * value, mean_h, (1 - eps) * (g_d2 - mean_g * p_d2), peak, s_most, p_most};
    for (int i = 0; i < FOUND; i++) found[i * next] = of_row[i];
    if (weight) {
        const T w = (1 - eps) * *weight;
#pragma omp simd
        for (int64_t j = 0; j < n; j++) s[j] = w * (s_h[j] - s[j] * mean_h);
    }
}

// `s`, logits, become S, made anew from what was `found`, and `d` becomes S (d + constant + weight (u + log u)).
template <typename T>
static void attention_row(T* s, T* d, const T* found, int64_t next, T a, const T* d2, T constant, T weight, T eps,
                          T lowest, int64_t n) {
    const T c = eps / (n * (1 - eps)), minus_a = -a;
    const T peak = found[PEAKS * next], s_most = found[(PEAKS + 1) * next], p_most = found[(PEAKS + 2) * next];
    if (weight == 0) {  // P takes no part, be it finite or not
#pragma omp simd
        for (int64_t j = 0; j < n; j++) {
            s[j] = floored_exp(s[j] - peak, lowest) * s_most;
            d[j] = s[j] * (d[j] + constant);
        }
        return;
    }
#pragma omp simd
    for (int64_t j = 0; j < n; j++) {
        const T sj = floored_exp(s[j] - peak, lowest) * s_most, pj = floored_exp(d2[j] * minus_a, lowest) * p_most;
        const T u = (pj + c) / (sj + c);
        s[j] = sj;
        d[j] = sj * (d[j] + constant + weight * (u + log_of(u)));
    }
}
