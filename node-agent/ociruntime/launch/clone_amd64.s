// SPDX-License-Identifier: Apache-2.0

#include "textflag.h"

#define SYS_clone3 435

// func clone3(args *cloneArgs, size uintptr, prog *program, child uintptr) (pid, errno uintptr)
TEXT ·clone3(SB), NOSPLIT, $0-48
	MOVQ	args+0(FP), DI
	MOVQ	size+8(FP), SI
	MOVQ	prog+16(FP), R12
	MOVQ	child+24(FP), R13
	MOVL	$SYS_clone3, AX
	SYSCALL
	TESTQ	AX, AX
	JEQ	inChild
	CMPQ	AX, $-4095
	JCC	failed
	MOVQ	AX, pid+32(FP)
	MOVQ	$0, errno+40(FP)
	RET
failed:
	NEGQ	AX
	MOVQ	$0, pid+32(FP)
	MOVQ	AX, errno+40(FP)
	RET
inChild:
	// The kernel has kept all registers but for the stack pointer, which is that of clone_args. Go's own convention has the first
	// argument in AX, room for it on the caller's stack, and zero in X15 (go.dev/s/regabi); the wrapper for calls from assembly would look
	// for a goroutine.
	XORL	BP, BP
	XORPS	X15, X15
	SUBQ	$32, SP
	MOVQ	R12, AX
	CALL	R13
	UNDEF
