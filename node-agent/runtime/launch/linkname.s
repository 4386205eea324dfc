// This file lets package launch declare functions without a body, which go:linkname gives one.
