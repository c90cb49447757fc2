/* The rate at which one core multiplies and adds: fused, 32-bit, operands in registers, FLOP/s.
   Built once for each width of a vector, in bytes: cc -O3 -march=native -DWIDTH=64 fma_peak.c */
#include <stdio.h>
#include <time.h>

typedef float vector __attribute__((vector_size(WIDTH)));
enum { CHAINS = 12, ROUNDS = 2000000, WINDOWS = 9 };  /* chains: latency times units, and more */

static double cpu_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return now.tv_sec + 1e-9 * now.tv_nsec;
}

int main(void) {
  volatile float start = 1.0f, factor = 0.999f, term = 0.001f;
  double best = 0.0;
  float kept = 0.0f;
  for (int window = 0; window < WINDOWS; window++) {
    vector chains[CHAINS], m = (vector){0} + factor, a = (vector){0} + term;
    for (int i = 0; i < CHAINS; i++) chains[i] = (vector){0} + (start + i);
    double begun = cpu_seconds();
    for (long round = 0; round < ROUNDS; round++)
      for (int i = 0; i < CHAINS; i++) chains[i] = chains[i] * m + a;
    double rate = 2.0 * CHAINS * (WIDTH / sizeof(float)) * ROUNDS / (cpu_seconds() - begun);
    if (rate > best) best = rate;
    for (int i = 0; i < CHAINS; i++) kept += chains[i][0];
  }
  fprintf(stderr, "%g\n", kept);  /* what nobody reads need not be computed */
  printf("%.6e\n", best);
  return 0;
}
