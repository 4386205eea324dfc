// SPDX-License-Identifier: Apache-2.0

#include "textflag.h"

// The kernel leaves argc at the top of the stack. sealEarly gets its address in R0, the first register of Go's internal
// calling convention, in which R26 is the function value. The Go runtime then begins as if nothing had been.
TEXT ·entry(SB),NOSPLIT|NOFRAME,$0
	MOVD	RSP, R0
	SUB	$32, RSP
	MOVD	·early(SB), R26
	MOVD	(R26), R1
	BL	(R1)
	ADD	$32, RSP
	B	_rt0_arm64_linux(SB)
