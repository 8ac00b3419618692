/* board.c: start of a Cortex-M, and semihosting (Arm: "Semihosting for AArch32 and AArch64", the calls WRITE0, EXIT). */
#include "board.h"

#include <stdint.h>
#include <string.h>

extern uint32_t stack_top, data_start, data_end, data_image, bss_start, bss_end; /* defined by the linker script */
int main(void);

static void semihosting(int call, const void *argument) {
  register int r0 __asm__("r0") = call;
  register const void *r1 __asm__("r1") = argument;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

void board_print(const char *text) { semihosting(0x04, text); }

void board_exit(int status) {
  const uint32_t argument[] = {0x20026, (uint32_t)status}; /* ADP_Stopped_ApplicationExit */
  semihosting(0x20, argument);
  for (;;) continue;
}

_Noreturn void reset(void) {
  memcpy(&data_start, &data_image, (size_t)((char *)&data_end - (char *)&data_start));
  memset(&bss_start, 0, (size_t)((char *)&bss_end - (char *)&bss_start));
  *(volatile uint32_t *)0xe000ed88 |= 0xfu << 20; /* CPACR: the FPU may be used */
  __asm__ volatile("dsb\n\tisb");
  board_exit(main());
}

static _Noreturn void fault(void) {
  board_print("fault\n");
  board_exit(3);
}

typedef union {
  const void *stack;
  void (*handler)(void);
} vector;
__attribute__((section(".vectors"), used)) static const vector vectors[16] = {
    {&stack_top}, {.handler = reset}, {.handler = fault}, {.handler = fault},
    {.handler = fault}, {.handler = fault}, {.handler = fault}, {.handler = fault},
};
