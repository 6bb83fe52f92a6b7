// Products of matrices that fit in the first two caches, in vectors as wide as the machine's. A matrix library has to
// look at sizes, copy and wake threads, which takes longer than so small a product, and does not see the next step.
#pragma once
#include <cstdint>

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64, ROWS = 8;
#elif defined(__AVX__)
constexpr int VECTOR_BYTES = 32, ROWS = 6;
#elif defined(__aarch64__)
constexpr int VECTOR_BYTES = 16, ROWS = 8;
#else
constexpr int VECTOR_BYTES = 16, ROWS = 4;
#endif

// ROWS x COLUMNS sums are at work together: two vectors of each row, so that all of them stay in registers.
template <typename T> constexpr int LANES = VECTOR_BYTES / sizeof(T);
template <typename T> constexpr int COLUMNS = 2 * LANES<T>;

template <typename T> struct Vector {
    typedef T type __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(T)), may_alias));
};

// A matrix in memory: element (i, j) is data[i * row + j * column].
template <typename T> struct Matrix {
    T* data;
    int64_t row, column = 1;
    Matrix transposed() const { return {data, column, row}; }
};

static inline int64_t round_up(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }

// C = A B, or ADDED to C. `rows` is a multiple of ROWS and `columns` of COLUMNS; columns of B and C lie side by side.
// Not inline: where each call has a copy, the compiler takes a second more.
template <bool ADDED, typename T>
__attribute__((noinline)) static void product(Matrix<T> c, Matrix<T> a, Matrix<T> b, int64_t rows, int64_t columns,
                                              int64_t inner) {
    typedef typename Vector<T>::type V;
    for (int64_t column = 0; column < columns; column += COLUMNS<T>)
        for (int64_t row = 0; row < rows; row += ROWS) {
            V left[ROWS], right[ROWS];
            T* to = c.data + row * c.row + column;
            const T *of_a = a.data + row * a.row, *of_b = b.data + column;
            for (int i = 0; i < ROWS; i++) {
                left[i] = ADDED ? *(const V*)(to + i * c.row) : V{};
                right[i] = ADDED ? *(const V*)(to + i * c.row + LANES<T>) : V{};
            }
            for (int64_t k = 0; k < inner; k++, of_a += a.column, of_b += b.row) {
                const V first = *(const V*)of_b, second = *(const V*)(of_b + LANES<T>);
                for (int i = 0; i < ROWS; i++) {
                    left[i] += of_a[i * a.row] * first;
                    right[i] += of_a[i * a.row] * second;
                }
            }
            for (int i = 0; i < ROWS; i++) {
                *(V*)(to + i * c.row) = left[i];
                *(V*)(to + i * c.row + LANES<T>) = right[i];
            }
        }
}
