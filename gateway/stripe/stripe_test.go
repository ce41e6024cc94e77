package stripe

import (
	"runtime"
	"sync"
	"testing"
)

func TestCount(t *testing.T) {
	if n := Count(); n < 1 || n > Max || n&(n-1) != 0 || n < min(Max, runtime.NumCPU()) {
		t.Errorf("%d cells on %d cores", n, runtime.NumCPU())
	}
}

func TestCoresHaveCellsOfTheirOwn(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	var mu sync.Mutex
	seen := make(map[uint32]bool)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				i := Mine()
				mu.Lock()
				seen[i] = true
				mu.Unlock()
				runtime.Gosched()
			}
		})
	}
	wg.Wait()
	for i := range seen {
		if i >= 4 {
			t.Errorf("cell %d on 4 cores", i)
		}
	}
	if runtime.GOMAXPROCS(1); Mine() != 0 {
		t.Errorf("cell %d on one core", Mine())
	}
}

func BenchmarkMine(b *testing.B) {
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			Mine()
		}
	})
}
