// Both associations of (batch, head) pairs, their symmetric KL and attention, with gradients: each thread takes a pair
// whole, some rows at a time: of matrices N x N, TILE numbers are in memory. A pair is always computed by one thread, in one
// order, so that no bit depends on their number. Made and called by advit/native.py, which says what the tensors are.
#include <algorithm>
#include <cmath>
#include <exception>
#ifndef _OPENMP
#include <system_error>
#include <thread>
#endif
#include <vector>

#include "products.h"
#include "rows.h"

constexpr int64_t TILE = 1 << 15;  // numbers of a matrix of some rows x N: 128 KB in float32, for the second cache

// D^2 between the patches of a square grid. Its rows for patches of one column are parts of one another, so that
// 2 N^1.5 numbers hold them all.
template <typename T> class Distances {
    int64_t grid;
    std::vector<T> table;

  public:
    explicit Distances(int64_t n) : grid(std::llround(std::sqrt((double)n))), table((2 * grid - 1) * grid * grid) {
        T* to = table.data();
        for (int64_t x = 0; x < grid; x++)
            for (int64_t dy = 1 - grid; dy < grid; dy++)
                for (int64_t other = 0; other < grid; other++) *to++ = dy * dy + (other - x) * (other - x);
    }
    const T* of(int64_t patch) const {
        return table.data() + (patch % grid * (2 * grid - 1) + grid - 1 - patch / grid) * grid;
    }
};

// What one thread works in. Rows of a matrix begin whole vectors apart; no number that fills the last one is used. Rows of N
// numbers begin one vector further apart, or a power of two would send all of them to the same few places of a cache.
template <typename T> struct Room {
    int64_t n, n_rows, n_columns, width, width_columns, tile;  // width: d_h. tile: rows that are computed together
    std::vector<T> keys, values, d_keys, d_values;             // N x d_h
    std::vector<T> keys_t, values_t;                           // d_h x N
    std::vector<T> queries, d_queries, mixed;                  // tile x d_h
    std::vector<T> s, d_logits;                                // tile x N; transposed, N x tile
    std::vector<T> of_row;

    Room(int64_t n, int64_t width)
        : n(n), n_rows(round_up(n, ROWS)), n_columns(round_up(n, COLUMNS<T>)), width(width),
          width_columns(round_up(width, COLUMNS<T>)),
          tile(round_up(std::max<int64_t>(1, std::min(n, TILE / n)), ROWS)) {
        for (auto* x : {&keys, &values, &d_keys, &d_values}) x->resize(n_rows * width_columns);
        for (auto* x : {&keys_t, &values_t}) x->resize(width * long_row());
        for (auto* x : {&queries, &d_queries, &mixed}) x->resize(tile * width_columns);
        for (auto* x : {&s, &d_logits}) x->resize(tile * long_row());
        of_row.resize(2 * n);
    }
    int64_t long_row() const { return round_up(n_rows, COLUMNS<T>) + LANES<T>; }
    Matrix<T> narrow(std::vector<T>& x) const { return {x.data(), width_columns}; }
    Matrix<T> wide(std::vector<T>& x) const { return {x.data(), long_row()}; }

    void load(std::vector<T>& to, const T* from, int64_t rows, T scale = 1) const {  // and zeros to whole ROWS
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < width; j++) to[i * width_columns + j] = scale * from[i * width + j];
        std::fill(to.data() + rows * width_columns, to.data() + round_up(rows, ROWS) * width_columns, T(0));
    }
    void load_transposed(std::vector<T>& to, const T* from) const {
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < width; j++) to[j * long_row() + i] = from[i * width + j];
    }
    void store(T* to, const std::vector<T>& from, int64_t rows, T scale = 1) const {
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < width; j++) to[i * width + j] = scale * from[i * width_columns + j];
    }
};

// work(pair, room) for all pairs, in threads: with GCC's OpenMP those that PyTorch has. Rooms are made here, since what a
// new thread takes of memory is given back when it ends.
template <typename T, typename Work>
static void for_pairs(int64_t pairs, int64_t n, int64_t width, int threads, const Work& work) {
    std::vector<Room<T>> rooms;
    for (int i = 0; i < threads; i++) rooms.emplace_back(n, width);
    const auto part = [&](int i) {
        for (int64_t pair = pairs * i / threads; pair < pairs * (i + 1) / threads; pair++) work(pair, rooms[i]);
    };
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int i = 0; i < threads; i++) part(i);
#else
    std::vector<std::thread> others;
    for (int i = 1; i < threads; i++) {
        try {
            others.emplace_back(part, i);
        } catch (const std::system_error&) {  // the system has no thread left
            part(i);
        }
    }
    part(0);
    for (auto& other : others) other.join();
#endif
}

// A tile of a pair: its first row among those of the pair and of all pairs, and how many there are.
struct Tile {
    int64_t first, row, rows, whole;  // whole: a multiple of ROWS
};

// work(tile) for all tiles of a pair.
template <typename T, typename Work> static void for_tiles(const Room<T>& room, int64_t pair, const Work& work) {
    for (int64_t first = 0; first < room.n; first += room.tile) {
        const int64_t rows = std::min(room.tile, room.n - first);
        work(Tile{first, pair * room.n + first, rows, round_up(rows, ROWS)});
    }
}

// S's logits of a tile; the scaled queries stay.
template <typename T> static void logits(Room<T>& room, const Tile& tile, const T* q) {
    room.load(room.queries, q + tile.row * room.width, tile.rows, 1 / std::sqrt((T)room.width));
    product<false>(room.wide(room.s), room.narrow(room.queries), room.wide(room.keys_t), tile.whole, room.n_columns,
                   room.width);
}

// From the gradient of a tile's logits, `d`: that of its queries, and what it adds to that of the keys.
template <typename T> static void logit_products(Room<T>& room, const Tile& tile, std::vector<T>& d, T* d_q) {
    product<false>(room.narrow(room.d_queries), room.wide(d), room.narrow(room.keys), tile.whole, room.width_columns,
                   room.n);
    room.store(d_q + tile.row * room.width, room.d_queries, tile.rows, 1 / std::sqrt((T)room.width));
    product<true>(room.narrow(room.d_keys), room.wide(d).transposed(), room.narrow(room.queries), room.n_rows,
                  room.width_columns, tile.rows);
}

// Rows of a tile: S, or the gradient of its logits, and what is found.
template <typename T>
static void divergence_rows(Room<T>& room, const Tile& tile, T* found, int64_t next, const T* a, const T* weight, T eps,
                            T lowest, const Distances<T>& distances) {
    for (int64_t i = 0; i < tile.rows; i++)
        divergence_row(&room.s[i * room.long_row()], found + tile.row + i, next, a[tile.row + i],
                       distances.of(tile.first + i), weight ? weight + tile.row + i : nullptr, eps, lowest, room.n,
                       room.of_row.data());
}

template <typename T>
static void divergence(T* found, T* d_q, T* d_k, const T* q, const T* k, const T* a, const T* weight, T eps, T lowest,
                       int64_t pairs, int64_t n, int64_t width, int threads) {
    const Distances<T> distances(n);
    for_pairs<T>(pairs, n, width, threads, [&](int64_t pair, Room<T>& room) {
        const int64_t start = pair * n * width;
        room.load_transposed(room.keys_t, k + start);
        if (weight) {
            room.load(room.keys, k + start, n);
            std::fill(room.d_keys.begin(), room.d_keys.end(), T(0));
        }
        for_tiles(room, pair, [&](const Tile& tile) {
            logits(room, tile, q);
            divergence_rows(room, tile, found, pairs * n, a, weight, eps, lowest, distances);
            if (weight) logit_products(room, tile, room.s, d_q);
        });
        if (weight) room.store(d_k + start, room.d_keys, n);
    });
}

template <typename T>
static void forward(T* out, T* found, const T* q, const T* k, const T* v, const T* a, T eps, T lowest, int64_t pairs,
                    int64_t n, int64_t width, int threads) {
    const Distances<T> distances(n);
    for_pairs<T>(pairs, n, width, threads, [&](int64_t pair, Room<T>& room) {
        room.load_transposed(room.keys_t, k + pair * n * width);
        room.load(room.values, v + pair * n * width, n);
        for_tiles(room, pair, [&](const Tile& tile) {
            logits(room, tile, q);
            divergence_rows<T>(room, tile, found, pairs * n, a, nullptr, eps, lowest, distances);
            product<false>(room.narrow(room.mixed), room.wide(room.s), room.narrow(room.values), tile.whole,
                           room.width_columns, n);
            room.store(out + tile.row * width, room.mixed, tile.rows);
        });
    });
}

template <typename T>
static void backward(T* d_q, T* d_k, T* d_v, const T* q, const T* k, const T* v, const T* a, const T* found,
                     const T* out, const T* d_out, T weight, T eps, T lowest, int64_t pairs, int64_t n, int64_t width,
                     int threads) {
    const Distances<T> distances(n);
    weight *= 1 - eps;
    for_pairs<T>(pairs, n, width, threads, [&](int64_t pair, Room<T>& room) {
        const int64_t start = pair * n * width;
        room.load_transposed(room.keys_t, k + start);
        room.load_transposed(room.values_t, v + start);
        room.load(room.keys, k + start, n);
        std::fill(room.d_keys.begin(), room.d_keys.end(), T(0));
        std::fill(room.d_values.begin(), room.d_values.end(), T(0));
        for_tiles(room, pair, [&](const Tile& tile) {
            logits(room, tile, q);
            room.load(room.mixed, d_out + tile.row * width, tile.rows);
            product<false>(room.wide(room.d_logits), room.narrow(room.mixed), room.wide(room.values_t), tile.whole,
                           room.n_columns, width);
            for (int64_t i = 0; i < tile.rows; i++) {
                const int64_t row = tile.row + i;
                T constant = weight == 0 ? 0 : weight * found[pairs * n + row];  // of E[h]
                for (int64_t j = 0; j < width; j++) constant -= out[row * width + j] * d_out[row * width + j];
                attention_row(&room.s[i * room.long_row()], &room.d_logits[i * room.long_row()], found + row, pairs * n,
                              a[row], distances.of(tile.first + i), constant, weight, eps, lowest, n);
            }
            logit_products(room, tile, room.d_logits, d_q);
            product<true>(room.narrow(room.d_values), room.wide(room.s).transposed(), room.narrow(room.mixed),
                          room.n_rows, room.width_columns, tile.rows);
        });
        room.store(d_k + start, room.d_keys, n);
        room.store(d_v + start, room.d_values, n);
    });
}

// 0, or 1 if there is not enough memory.
template <typename Work> static int without_exceptions(const Work& work) {
    try {
        work();
        return 0;
    } catch (const std::exception&) {  // bad_alloc, or length_error
        return 1;
    }
}

#define EXPORTED(T, NAME)                                                                                              \
    extern "C" int divergence_##NAME(T* found, T* d_q, T* d_k, const T* q, const T* k, const T* a, const T* weight,    \
                                     T eps, T lowest, int64_t pairs, int64_t n, int64_t width, int threads) {          \
        return without_exceptions(                                                                                     \
            [&] { divergence<T>(found, d_q, d_k, q, k, a, weight, eps, lowest, pairs, n, width, threads); });          \
    }                                                                                                                  \
    extern "C" int forward_##NAME(T* out, T* found, const T* q, const T* k, const T* v, const T* a, T eps, T lowest,   \
                                  int64_t pairs, int64_t n, int64_t width, int threads) {                              \
        return without_exceptions(                                                                                     \
            [&] { forward<T>(out, found, q, k, v, a, eps, lowest, pairs, n, width, threads); });                       \
    }                                                                                                                  \
    extern "C" int backward_##NAME(T* d_q, T* d_k, T* d_v, const T* q, const T* k, const T* v, const T* a,             \
                                   const T* found, const T* out, const T* d_out, T weight, T eps, T lowest,            \
                                   int64_t pairs, int64_t n, int64_t width, int threads) {                             \
        return without_exceptions([&] {                                                                                \
            backward<T>(d_q, d_k, d_v, q, k, v, a, found, out, d_out, weight, eps, lowest, pairs, n, width, threads);  \
        });                                                                                                            \
    }

EXPORTED(float, float32)
EXPORTED(double, float64)
