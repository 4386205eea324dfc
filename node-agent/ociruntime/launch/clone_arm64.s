// SPDX-License-Identifier: Apache-2.0

#include "textflag.h"

#define SYS_clone3 435

// func clone3(args *cloneArgs, size uintptr, prog *program, child uintptr) (pid, errno uintptr)
TEXT ·clone3(SB), NOSPLIT, $0-48
	MOVD	args+0(FP), R0
	MOVD	size+8(FP), R1
	MOVD	prog+16(FP), R12
	MOVD	child+24(FP), R13
	MOVD	$SYS_clone3, R8
	SVC
	CBZ	R0, inChild
	CMN	$4095, R0
	BCS	failed
	MOVD	R0, pid+32(FP)
	MOVD	ZR, errno+40(FP)
	RET
failed:
	NEG	R0, R0
	MOVD	ZR, pid+32(FP)
	MOVD	R0, errno+40(FP)
	RET
inChild:
	// The kernel has kept all registers but for the stack pointer, which is that of clone_args. Go's own convention has the first
	// argument in R0 and room for it on the caller's stack (go.dev/s/regabi); the wrapper for calls from assembly is not needed.
	MOVD	ZR, R29
	SUB	$32, RSP
	MOVD	R12, R0
	CALL	(R13)
	UNDEF
