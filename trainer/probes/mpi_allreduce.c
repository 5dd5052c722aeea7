/* All-reduce against size, and half a round trip of 8 bytes, between the ranks of MPI_COMM_WORLD.
 *
 * mpi_allreduce RANKS REPEATS BYTES...: the first rank prints one line per measurement, its name,
 * its bytes and the seconds per call of each repeat, those of the slowest rank. Float32 sums, as of
 * gradients. Built and read by bench_mpi.py.
 */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WARM_UP 3   /* connections are made in the first calls */
#define SMALL 65536 /* bytes up to which a call takes about as long as leaving a barrier, */
#define CALLS 20    /* so that a repeat is several of them */

static int rank, ranks;

static void fail(const char *what, long number) {
  fprintf(stderr, "mpi_allreduce: %s (%ld)\n", what, number);
  MPI_Abort(MPI_COMM_WORLD, 1);
}

static void print_slowest(const char *name, size_t bytes, double *taken, int repeats) {
  double *slowest = malloc(repeats * sizeof *slowest);
  MPI_Reduce(taken, slowest, repeats, MPI_DOUBLE, MPI_MAX, 0, MPI_COMM_WORLD);
  if (rank == 0) {
    printf("%s %zu", name, bytes);
    for (int i = 0; i < repeats; i++) printf(" %.9f", slowest[i]);
    printf("\n");
  }
  free(slowest);
}

static void all_reduce(size_t bytes, double *taken, int repeats) {
  size_t count = bytes / sizeof(float);
  float *mine = malloc(bytes), *sum = malloc(bytes);
  if (!mine || !sum) fail("no room for a buffer of this many bytes", bytes);
  for (size_t i = 0; i < count; i++) mine[i] = rank + 1;
  memset(sum, 0, bytes);
  int calls = bytes <= SMALL ? CALLS : 1;
  for (int turn = -WARM_UP; turn < repeats; turn++) {
    MPI_Barrier(MPI_COMM_WORLD);
    double before = MPI_Wtime();
    for (int call = 0; call < calls; call++)
      MPI_Allreduce(mine, sum, count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    if (turn >= 0) taken[turn] = (MPI_Wtime() - before) / calls;
  }
  float wanted = ranks * (ranks + 1) / 2;
  for (size_t i = 0; i < count; i++)
    if (sum[i] != wanted) fail("a sum is wrong at element", i);
  free(mine);
  free(sum);
  print_slowest("all_reduce", bytes, taken, repeats);
}

static void point_to_point(double *taken, int repeats) {
  double word = 1;
  int last = ranks - 1;
  for (int turn = -WARM_UP; turn < repeats; turn++) {
    MPI_Barrier(MPI_COMM_WORLD);
    double before = MPI_Wtime();
    for (int call = 0; call < CALLS; call++) {
      if (rank == 0) {
        MPI_Send(&word, 1, MPI_DOUBLE, last, 0, MPI_COMM_WORLD);
        MPI_Recv(&word, 1, MPI_DOUBLE, last, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
      } else if (rank == last) {
        MPI_Recv(&word, 1, MPI_DOUBLE, 0, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        MPI_Send(&word, 1, MPI_DOUBLE, 0, 0, MPI_COMM_WORLD);
      }
    }
    if (turn >= 0) taken[turn] = (MPI_Wtime() - before) / 2 / CALLS;
  }
  print_slowest("point_to_point", sizeof word, taken, repeats);
}

int main(int argc, char **argv) {
  MPI_Init(&argc, &argv);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  if (argc < 4) fail("usage: mpi_allreduce RANKS REPEATS BYTES...; arguments given", argc - 1);
  /* Another MPI's mpirun starts programs that do not know of each other. */
  if (ranks != atoi(argv[1])) fail("mpirun and mpicc are of different MPIs; ranks here", ranks);
  int repeats = atoi(argv[2]);
  if (repeats < 1) fail("REPEATS must be 1 or more", repeats);
  double *taken = calloc(repeats, sizeof *taken);
  for (int i = 3; i < argc; i++) all_reduce(strtoull(argv[i], NULL, 10), taken, repeats);
  point_to_point(taken, repeats);
  free(taken);
  MPI_Finalize();
  return 0;
}
