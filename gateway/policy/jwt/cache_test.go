package jwt

import (
	"fmt"
	"math"
	"sync"
	"testing"
)

func remembered(c *cache, hash uint64, token string, generation uint64) bool {
	return c.get(hash, []byte(token), generation) != nil
}

func TestCacheIsKeyedByTheWholeToken(t *testing.T) {
	var c cache
	c.put(&entry{hash: 7, token: "one", claims: &Claims{expires: math.MaxInt64}}, 0)
	c.put(&entry{hash: 7, token: "two", claims: &Claims{expires: math.MaxInt64, Subject: "two"}}, 0)
	if remembered(&c, 7, "three", 0) || !remembered(&c, 7, "one", 0) || c.get(7, []byte("two"), 0).Subject != "two" {
		t.Fatal("tokens of one hash are mixed up")
	}
	if remembered(&c, 7, "one", 1) {
		t.Fatal("a token outlived the key that verified it")
	}
	c.put(&entry{hash: 7, token: "one", generation: 1, claims: &Claims{expires: math.MaxInt64}}, 0)
	if !remembered(&c, 7, "one", 1) || c.len.Load() != 1 {
		t.Fatal("a token verified by the new keys is not remembered in place of the old")
	}
}

func TestCacheGrowsAndStaysBounded(t *testing.T) {
	var c cache
	n := 0
	put := func(expires int64) {
		n++
		c.put(&entry{hash: uint64(n) * 0x9e3779b97f4a7c15 >> 7, token: fmt.Sprint(n), claims: &Claims{expires: expires}}, 0)
	}
	for range 1000 {
		put(math.MaxInt64)
	}
	if got := c.len.Load(); got != 1000 {
		t.Fatalf("%d of 1000 tokens are remembered while there is room", got)
	}
	for range 2 * maxSets * ways {
		put(math.MaxInt64)
	}
	if got, slots := c.len.Load(), len(c.table.Load().slots); got > maxSets*ways || got < maxSets*ways*9/10 || slots != maxSets*ways {
		t.Fatalf("%d tokens in %d slots", got, slots)
	}
	counted := 0
	for i := range c.table.Load().slots {
		if c.table.Load().slots[i].Load() != nil {
			counted++
		}
	}
	if int64(counted) != c.len.Load() {
		t.Fatalf("len says %d, there are %d", c.len.Load(), counted)
	}
}

func TestCacheDropsExpiredTokensFirst(t *testing.T) {
	var c cache
	for i := range ways {
		expires := int64(math.MaxInt64)
		if i == 3 {
			expires = 10
		}
		c.put(&entry{token: fmt.Sprint(i), claims: &Claims{expires: expires}}, 0)
	}
	c.put(&entry{token: "new", claims: &Claims{expires: math.MaxInt64}}, 10)
	for i := range ways {
		if remembered(&c, 0, fmt.Sprint(i), 0) != (i != 3) {
			t.Fatalf("token %d", i)
		}
	}
	if len(c.table.Load().slots) != minSets*ways {
		t.Fatal("grew although an expired token could go")
	}
}

func TestCacheBoundsBytes(t *testing.T) {
	var c cache
	large := string(make([]byte, setBudget))
	for i := range 3 {
		c.put(&entry{hash: 1, token: large + fmt.Sprint(i), claims: &Claims{expires: math.MaxInt64}}, 0)
	}
	if c.len.Load() != 1 || !remembered(&c, 1, large+"2", 0) {
		t.Fatalf("%d tokens larger than the budget share a set", c.len.Load())
	}
	c.put(&entry{hash: 1, token: "small", claims: &Claims{expires: math.MaxInt64}}, 0)
	if c.len.Load() != 1 || !remembered(&c, 1, "small", 0) {
		t.Fatal("a small token does not push the large one out")
	}
}

func TestCacheConcurrently(t *testing.T) {
	var c cache
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range uint64(5000) {
				hash, text := i%977, fmt.Sprint(i%977)
				if got := c.get(hash, []byte(text), 0); got == nil {
					c.put(&entry{hash: hash, token: text, claims: &Claims{expires: math.MaxInt64, Subject: text}}, 0)
				} else if got.Subject != text {
					t.Errorf("claims of %q for token %q", got.Subject, text)
				}
			}
		})
	}
	wg.Wait()
}
