// SPDX-License-Identifier: Apache-2.0

#include "textflag.h"

// The kernel calls it with the signal's number in DI, as a C function, and restores all registers afterwards.
TEXT relay<>(SB),NOSPLIT|NOFRAME,$0
	SUBQ	$24, SP
	MOVB	DI, 8(SP)
	MOVL	·relayFD(SB), DI
	LEAQ	8(SP), SI
	MOVL	$1, DX
	MOVL	$1, AX // SYS_write
	SYSCALL
	ADDQ	$24, SP
	RET

TEXT sigreturn<>(SB),NOSPLIT|NOFRAME,$0
	MOVL	$15, AX // SYS_rt_sigreturn
	SYSCALL
	INT	$3

DATA ·relayPC(SB)/8, $relay<>(SB)
GLOBL ·relayPC(SB), RODATA, $8
DATA ·sigreturnPC(SB)/8, $sigreturn<>(SB)
GLOBL ·sigreturnPC(SB), RODATA, $8
