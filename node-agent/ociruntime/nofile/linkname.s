// This file lets the package declare a function without a body, which go:linkname gives one.
