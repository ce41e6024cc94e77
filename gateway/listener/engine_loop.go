//go:build loop

package listener

const alwaysLoop = true
