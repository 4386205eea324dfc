// SPDX-License-Identifier: Apache-2.0

package compile

// Revision numbers the compiler's output. It rises when the same Container compiles to something
// else than before, such as for another default or another default seccomp profile; a test holds it
// to that. What was compiled at a lower revision may differ, and is kept until its Container is
// edited or asked to be compiled anew.
const Revision = 1
