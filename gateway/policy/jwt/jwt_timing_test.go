package jwt

import (
	"math"
	"runtime"
	"runtime/debug"
	"testing"
)

const usualPayload = `{"sub":"1234567890","name":"Alice Example","iss":"https://issuer.example","scope":"read write","iat":1799999000,"exp":1800003600}`

// mallocs counts the allocations of n calls; AllocsPerRun would round a rare one away.
func mallocs(n int, f func()) uint64 {
	// On one processor a sync.Pool keeps what it is given.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	runtime.GC() // ends a collection that has begun; another would empty the pools
	least := uint64(math.MaxUint64)
	for range 3 { // the runtime itself allocates a little after a collection
		f()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range n {
			f()
		}
		runtime.ReadMemStats(&after)
		least = min(least, after.Mallocs-before.Mallocs)
	}
	return least
}

func TestVerifyAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector drops pooled objects")
	}
	v := secretVerifier(Settings{})
	f := func(what, text string, want Reason) {
		t.Helper()
		b := []byte(text)
		if n := mallocs(10000, func() {
			if _, reason := v.Verify(b, testNow.UnixNano()); reason != want {
				t.Fatalf("%s: %q", what, reason)
			}
		}); n > 0 {
			t.Errorf("%s: %d allocations in 10000 calls", what, n)
		}
	}
	f("remembered", token(usualPayload), 0)
	f("missing", "", Missing)
	f("garbage", "Bearer what", Malformed)
	f("expired", token(`{"sub":"alice","exp":1}`), Expired)
	f("bad signature", tokenWith(`{"alg":"HS256"}`, usualPayload)[:60]+"e30", Malformed)
	f("other key", signed("HS256", []byte("other"), `{"alg":"HS256"}`, usualPayload), BadSignature)
	f("other algorithm", signed("HS384", []byte(testSecret), `{"alg":"HS384"}`, usualPayload), WrongAlgorithm)
}

func BenchmarkVerify(b *testing.B) {
	f := func(name string, text string, v *Verifier, want Reason, forget bool) {
		b.Run(name, func(b *testing.B) {
			token := []byte(text)
			b.ReportAllocs()
			for b.Loop() {
				if forget {
					v.cache.table.Store(nil)
				}
				if _, reason := v.Verify(token, testNow.UnixNano()); reason != want {
					b.Fatal(reason)
				}
			}
		})
	}
	hs := secretVerifier(Settings{})
	rs := NewVerifier(Settings{Own: Source{Keys: []*Key{must(NewPublicKey(publicPEM(rsaKey), 0))}}})
	es := NewVerifier(Settings{Own: Source{Keys: []*Key{must(NewPublicKey(publicPEM(ec256Key), 0))}}})
	f("Remembered", token(usualPayload), hs, 0, false)
	f("HS256/First", token(usualPayload), hs, 0, true)
	f("RS256/First", signed("RS256", rsaKey, `{"alg":"RS256"}`, usualPayload), rs, 0, true)
	f("ES256/First", signed("ES256", ec256Key, `{"alg":"ES256"}`, usualPayload), es, 0, true)
	f("BadSignature", signed("HS256", []byte("other"), `{"alg":"HS256"}`, usualPayload), hs, BadSignature, false)
	f("Malformed", "garbage", hs, Malformed, false)
}

func BenchmarkVerifyParallel(b *testing.B) {
	v := secretVerifier(Settings{})
	text := []byte(token(usualPayload))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, reason := v.Verify(text, testNow.UnixNano()); reason != 0 {
				b.Error(reason)
				return
			}
		}
	})
}
