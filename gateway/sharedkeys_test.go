package gateway_test

import (
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"sluice/gateway/cluster/redistest"
	"sluice/gateway/keys"
)

const byKey = "policies: {api_key: {}, auth_guard: {failures: 100000}}"

// ownFolder is the configuration of one of the gateways that share a store, with a folder of its own.
func ownFolder(redis, dir string) string {
	return fmt.Sprintf("state: {dir: %q, redis: {addresses: [%q]}}\nconsumers: {alice: {}}\n", dir, redis)
}

func (g *gate) makeKey() (secret string, k *keys.Key) {
	g.t.Helper()
	secret, k, err := g.Keys().Create(keys.Spec{Consumer: "alice"})
	if err != nil {
		g.t.Fatal(err)
	}
	return secret, k
}

func (g *gate) revokeKey(k *keys.Key) {
	g.t.Helper()
	if _, err := g.Keys().Revoke("alice", k.ID); err != nil {
		g.t.Fatal(err)
	}
}

func (g *gate) takes(key string) bool {
	g.t.Helper()
	switch status := g.status("GET / HTTP/1.1\r\nHost: a\r\nX-API-Key: " + key + "\r\n\r\n"); status {
	case 200:
		return true
	case 401:
	default:
		g.t.Errorf("status %d", status)
	}
	return false
}

// Keys that are made, rotated and revoked at one gateway are at the others, each of which has a folder of its own, whatever
// becomes of the store.
func TestSharedKeys(t *testing.T) {
	redis, s, root := redistest.Start(t), plain(t), t.TempDir()
	dir := func(name string) string { return filepath.Join(root, name) }
	begin := func(name string) *gate { return forward(t, s, "", byKey, ownFolder(redis.Address, dir(name))) }
	a, b := begin("a"), begin("b")
	up := func(want float64, gs ...*gate) {
		t.Helper()
		for _, g := range gs {
			once(t, "the store is as it should be", func() bool { return g.metric("sluice_store_up") == want })
		}
	}
	up(1, a, b)
	if told := a.Gateway.KeysTold(); told != "soon" {
		t.Error(told)
	}

	secret, k := a.makeKey()
	once(t, "a key of one is good at the other", func() bool { return b.takes(secret) })
	next, made, _, err := b.Keys().Rotate("alice", k.ID, 0, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	once(t, "it is rotated at both", func() bool { return !a.takes(secret) && a.takes(next) })
	a.revokeKey(made)
	if a.takes(next) {
		t.Error("is let in by the gateway that has revoked it")
	}
	once(t, "it is revoked at both", func() bool { return !b.takes(next) })

	// While the store is gone.
	kept, _ := a.makeKey()
	lost, ended := a.makeKey()
	once(t, "both have both", func() bool { return b.takes(kept) && b.takes(lost) })
	redis.Pause()
	up(0, a, b)
	a.revokeKey(ended)
	if told := a.Gateway.KeysTold(); told != "later" {
		t.Error(told)
	}
	if a.takes(lost) || !b.takes(lost) {
		t.Error("a revocation counts at once here, and elsewhere when it is told")
	}
	redis.Resume()
	once(t, "it is told afterwards", func() bool { return !b.takes(lost) })

	// The store loses everything: who comes later learns it all the same.
	redis.Do("FLUSHALL")
	c := begin("c")
	once(t, "who comes later knows the keys", func() bool { return c.takes(kept) && len(c.Keys().List("alice")) == 4 })
	if c.takes(lost) || c.takes(next) {
		t.Error("is let in after its revocation")
	}

	// Without the store it begins with what it has learned.
	c.Shutdown(t.Context())
	redis.Kill()
	c = begin("c")
	if !c.takes(kept) || c.takes(lost) || c.takes(next) {
		t.Error("after a restart without the store")
	}
}

// A gateway that changes its store or its folder goes on with what it knew, and tells it there.
func TestSharedKeysReload(t *testing.T) {
	first, second, s, root := redistest.Start(t), redistest.Start(t), plain(t), t.TempDir()
	dir := func(name string) string { return filepath.Join(root, name) }
	a := forward(t, s, "", byKey, ownFolder(first.Address, dir("a")))
	b := forward(t, s, "", byKey, ownFolder(second.Address, dir("b")))
	books := func(g *gate) (n int) {
		g.EachLiving(func(name string, _ any) bool {
			if strings.HasPrefix(name, "keys/book/") {
				n++
			}
			return true
		})
		return n
	}
	secret, k := a.makeKey()
	if b.takes(secret) {
		t.Fatal("they share no store yet")
	}
	a.apply(forwarding(s, "", byKey, ownFolder(second.Address, dir("a"))))
	once(t, "the other store is told of what was there", func() bool { return b.takes(secret) })
	a.apply(forwarding(s, "", byKey, ownFolder(second.Address, dir("a2"))))
	once(t, "the other folder learns it", func() bool { return a.takes(secret) })
	b.revokeKey(k)
	once(t, "it is revoked", func() bool { return !a.takes(secret) })
	a.apply(forwarding(s, "", byKey, fmt.Sprintf("state: {dir: %q}\nconsumers: {alice: {}}\n", dir("a2"))))
	if a.takes(secret) {
		t.Error("is let in without the store")
	}
	once(t, "no book is left", func() bool {
		runtime.GC() // ends what generations before have held
		return books(a) == 0 && books(b) == 1
	})
}
