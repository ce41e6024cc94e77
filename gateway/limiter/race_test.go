//go:build race

package limiter

func init() { raceEnabled = true }
