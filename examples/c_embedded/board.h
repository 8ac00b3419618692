/* board.h: what main.c needs of the board. Here a debugger or an emulator provides it, by semihosting. */
#ifndef BOARD_H
#define BOARD_H

void board_print(const char *text);
_Noreturn void board_exit(int status);

#endif
