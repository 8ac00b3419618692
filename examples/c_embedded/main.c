/* Reads digits on a microcontroller, and compares the scores with those that nomul's interpreter gave. */
#include "board.h"
#include "model.h"
#include "nomul.h"
#include "samples.h"

static _Alignas(NM_ALIGNMENT) uint8_t scratch[MODEL_SCRATCH_BYTES];

static void print_number(int number) {
  char text[12], *first = text + sizeof text - 1;
  *first = 0;
  do *--first = (char)('0' + number % 10);
  while (number /= 10);
  board_print(first);
}

static nm_status read_digit(const nm_model *model, const float *image, float *scores) {
  static const int64_t image_shape[] = {1, 1, 8, 8}, scores_shape[] = {1, 10};
  const nm_tensor input = {(void *)(uintptr_t)image, image_shape, 4, NM_F32};
  const nm_tensor output = {scores, scores_shape, 2, NM_F32};
  const nm_env env = {.size = sizeof env, .scratch = scratch, .scratch_size = sizeof scratch};
  return model->run(&env, &input, &output);
}

int main(void) {
  const nm_model *model = nm_query(NM_ABI);
  int wrong = 0;
  float largest = 0;
  board_print("digits:");
  for (int i = 0; i < SAMPLES; i++) {
    float scores[10];
    int best = 0;
    const nm_status status = read_digit(model, sample_images[i], scores);
    if (status != NM_OK) {
      board_print(" ");
      board_print(model->explain(status));
      board_print("\n");
      return 2;
    }
    for (int k = 0; k < 10; k++) {
      const float difference = scores[k] - sample_scores[i][k];
      const float size = difference < 0 ? -difference : difference;
      if (!(size <= largest)) largest = size; /* also where it is not a number */
      if (scores[k] > scores[best]) best = k;
    }
    wrong += best != sample_digits[i];
    board_print(" ");
    print_number(best);
  }
  board_print(", wrong: ");
  print_number(wrong);
  const int close = largest <= 1e-4f;
  board_print(close ? ", scores agree\n" : ", scores differ\n");
  return close ? 0 : 1;
}
