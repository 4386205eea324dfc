// SPDX-License-Identifier: Apache-2.0

// Package launch makes a child process and has it walk a plan of system calls, the last of which is
// execve.
//
// Between clone3 and execve the child runs no Go but one loop over prepared numbers: it allocates
// nothing, takes no lock and calls no scheduler, as the standard library's own fork does. A step
// that fails is reported on a pipe by its index, and the parent turns the index back into the field
// of the document.
//
// Nothing here may know what a step is for; nothing outside may know how a child is made.
package launch
