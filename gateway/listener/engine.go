//go:build !loop

package listener

// alwaysLoop has every listener use the engine loop, whatever it is configured
// for: the build tag loop sets it, so that all tests can be run against it.
const alwaysLoop = false
