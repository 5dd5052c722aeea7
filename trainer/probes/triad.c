/* STREAM's triad a = b + s c in float64 with stores that go past the caches.
 *
 * An ordinary store first reads the line that it overwrites: 32 bytes move per element and STREAM
 * counts 24. For x86-64; the widest stores are chosen at compile time: -march=native -fopenmp.
 * bench_cpu.py loads it as a library: one call is one pass over the arrays.
 */
#include <immintrin.h>
#include <omp.h>
#include <stdint.h>
#include <stdlib.h>

#define LINE 8 /* elements of a cache line of 64 bytes */
#define SCALE 3.0

#if defined(__AVX512F__)
static void one_line(double *a, const double *b, const double *c) {
  __m512d product = _mm512_mul_pd(_mm512_set1_pd(SCALE), _mm512_load_pd(c));
  _mm512_stream_pd(a, _mm512_add_pd(_mm512_load_pd(b), product));
}
#elif defined(__AVX__)
static void one_line(double *a, const double *b, const double *c) {
  for (int i = 0; i < LINE; i += 4) {
    __m256d product = _mm256_mul_pd(_mm256_set1_pd(SCALE), _mm256_load_pd(c + i));
    _mm256_stream_pd(a + i, _mm256_add_pd(_mm256_load_pd(b + i), product));
  }
}
#else /* every x86-64 has SSE2 */
static void one_line(double *a, const double *b, const double *c) {
  for (int i = 0; i < LINE; i += 2) {
    __m128d product = _mm_mul_pd(_mm_set1_pd(SCALE), _mm_load_pd(c + i));
    _mm_stream_pd(a + i, _mm_add_pd(_mm_load_pd(b + i), product));
  }
}
#endif

static double *a, *b, *c;
static int64_t lines;
static int threads;

/* The lines of the calling thread: the same ones in every pass, as NUMA wants it. */
static void mine(int64_t *from, int64_t *to) {
  int64_t place = omp_get_thread_num(), all = omp_get_num_threads();
  *from = lines * place / all * LINE;
  *to = lines * (place + 1) / all * LINE;
}

void triad_end(void) {
  free(a);
  free(b);
  free(c);
  a = b = c = NULL;
}

/* Make the arrays, each page touched first by the thread that will use it; 0 when there is room. */
int triad_begin(int64_t count, int wanted) {
  size_t bytes = count * sizeof(double);
  lines = count / LINE;
  threads = wanted;
  if (posix_memalign((void **)&a, 4096, bytes) || posix_memalign((void **)&b, 4096, bytes) ||
      posix_memalign((void **)&c, 4096, bytes)) {
    triad_end();
    return 1;
  }
#pragma omp parallel num_threads(threads)
  {
    int64_t from, to;
    mine(&from, &to);
    for (int64_t i = from; i < to; i++) {
      a[i] = 0.0;
      b[i] = 1.0 + i % 7;
      c[i] = 2.0;
    }
  }
  return 0;
}

void triad_pass(void) {
#pragma omp parallel num_threads(threads)
  {
    int64_t from, to;
    mine(&from, &to);
    for (int64_t i = from; i < to; i += LINE) one_line(a + i, b + i, c + i);
    _mm_sfence();
  }
}

/* Elements that a pass left wrong. */
int64_t triad_wrong(void) {
  int64_t wrong = 0;
  for (int64_t i = 0; i < lines * LINE; i++) wrong += a[i] != 1.0 + i % 7 + SCALE * 2.0;
  return wrong;
}
