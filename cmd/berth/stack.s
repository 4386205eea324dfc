// SPDX-License-Identifier: Apache-2.0

#include "textflag.h"

TEXT ·growStack(SB),0,$40960-0
	RET
