// Package stripe spreads what every core writes: each core counts in cells of its own, and who wants the sum reads them
// all. It tells a caller which cell is its core's. That is a matter of speed alone: a goroutine can move to another core
// at any time, so cells are written with atomic operations, and the sum is right whoever wrote where.
package stripe

import (
	"math/bits"
	"runtime"
	_ "unsafe" // for go:linkname
)

// Max bounds the cells of one thing, and so its memory. More cores share cells.
const Max = 8

// count is a power of two.
var count = min(Max, 1<<bits.Len(uint(max(runtime.NumCPU(), runtime.GOMAXPROCS(0))-1)))

// Count is how many cells a thing needs so that no two cores write the same one, a power of two up to Max.
func Count() int { return count }

// Mine is the number of the cell that the calling core writes, below Max. Of fewer than Max cells, a power of two, it
// is Mine()&(n-1).
func Mine() uint32 {
	p := procPin()
	procUnpin()
	return uint32(p) % Max
}

// The runtime keeps these two for packages outside of it (go.dev/issue/67401). They cost a nanosecond, where a
// sync.Pool of one token for each core costs ten.
//
//go:linkname procPin runtime.procPin
func procPin() int

//go:linkname procUnpin runtime.procUnpin
func procUnpin()
