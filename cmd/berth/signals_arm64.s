// SPDX-License-Identifier: Apache-2.0

#include "textflag.h"

// The kernel calls it with the signal's number in R0, as a C function that returns to its own rt_sigreturn, and restores all
// registers afterwards.
TEXT relay<>(SB),NOSPLIT|NOFRAME,$0
	SUB	$16, RSP
	MOVB	R0, 8(RSP)
	MOVW	·relayFD(SB), R0
	ADD	$8, RSP, R1
	MOVD	$1, R2
	MOVD	$64, R8 // SYS_write
	SVC
	ADD	$16, RSP
	RET

DATA ·relayPC(SB)/8, $relay<>(SB)
GLOBL ·relayPC(SB), RODATA, $8
