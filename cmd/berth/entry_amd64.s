// SPDX-License-Identifier: Apache-2.0

#include "textflag.h"

// The kernel leaves argc at the top of the stack. sealEarly gets its address in AX, the first register of Go's internal
// calling convention, in which DX is the function value and X15 is zero. The Go runtime then begins as if nothing had been.
TEXT ·entry(SB),NOSPLIT|NOFRAME,$0
	MOVQ	SP, AX
	SUBQ	$32, SP // aligned to 16 bytes, as the kernel leaves it
	MOVQ	AX, 16(SP)
	XORPS	X15, X15
	MOVQ	·early(SB), DX
	MOVQ	(DX), CX
	CALL	CX
	MOVQ	16(SP), SP
	XORL	DX, DX
	JMP	_rt0_amd64_linux(SB)
