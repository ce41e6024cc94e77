package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/gateway/cluster/redistest"
	"sluice/gateway/limiter"
)

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in 30 s: %s", what)
		}
	}
}

var start = time.Now()

// open starts an instance as it runs.
func open(t testing.TB, change func(*Options), addresses ...string) *Store {
	t.Helper()
	o := Options{
		Addresses: addresses, Prefix: "test", Timeout: 50 * time.Millisecond,
		Now: func() int64 { return int64(time.Since(start)) + 1 }, Wall: time.Now,
	}
	if change != nil {
		change(&o)
	}
	s := Open(o)
	s.Start()
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func taking(s *Store, key string, l *Limits) func() Verdict {
	var out [MaxWindows]limiter.Result
	return func() Verdict { return s.limiter.Take(s.o.Now(), []byte(key), l, out[:]) }
}

// Instances know of each other when they start, and soon of one that is gone.
func TestInstances(t *testing.T) {
	server := redistest.Start(t)
	a := open(t, nil, server.Address)
	eventually(t, "the first is up", a.Up)
	b := open(t, nil, server.Address)
	c := open(t, nil, server.Address)
	for _, s := range []*Store{a, b, c} {
		eventually(t, "there are three", func() bool { return s.Up() && s.Instances() == 3 })
	}
	_ = c.Close()
	eventually(t, "there are two", func() bool { return a.Instances() == 2 && b.Instances() == 2 })
	other := open(t, func(o *Options) { o.Prefix = "other" }, server.Address)
	eventually(t, "another prefix is another group", func() bool { return other.Up() && other.Instances() == 1 })
}

// A store that is not there keeps nobody from starting, and is found when it comes.
func TestStartsWithoutTheStore(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	var log strings.Builder
	var mu sync.Mutex
	s := open(t, func(o *Options) {
		o.Log = slog.New(slog.NewTextHandler(writer(func(b []byte) { mu.Lock(); log.Write(b); mu.Unlock() }), nil))
		o.Password = "t0p-s3cret"
	}, server.Address)
	l := bucketOf(1000, time.Hour, 1000)
	if s.Up() || taking(s, "k", l)() != Passed {
		t.Error("an instance alone has the whole limit")
	}
	server.Restart()
	server.Do("CONFIG", "SET", "requirepass", "t0p-s3cret")
	eventually(t, "the store is found", s.Up)
	mu.Lock()
	defer mu.Unlock()
	if n := strings.Count(log.String(), "can not be reached"); n != 1 || strings.Contains(log.String(), "s3cret") {
		t.Errorf("the log has %s", log.String())
	}
}

type writer func([]byte)

func (w writer) Write(b []byte) (int, error) { w(b); return len(b), nil }

// Each kind of server is found out by asking.
func TestKindsOfServers(t *testing.T) {
	f := func(name string, run func(t *testing.T) *Store) {
		t.Run(name, func(t *testing.T) {
			s := run(t)
			eventually(t, "the store answers", s.Up)
			l := bucketOf(1000, time.Hour, 1000)
			strict := NewLimits("strict", []Window{{Requests: 2, Per: time.Hour}}, 1, true)
			take := taking(s, "k", l)
			for range 100 {
				if take() != Passed {
					t.Fatal("refused")
				}
			}
			eventually(t, "what was taken is known to the store", func() bool { return s.limiter.shares("k") })
			var passed atomic.Int64
			var all sync.WaitGroup
			for i := range 40 {
				all.Go(func() {
					var out [MaxWindows]limiter.Result
					// Different keys lie on different nodes of a cluster.
					if s.limiter.TakeStrict(s.o.Now(), []Charge{{fmt.Appendf(nil, "k%d", i%10), strict, out[:]}}) == Passed {
						passed.Add(1)
					}
				})
			}
			all.Wait()
			if passed.Load() != 20 {
				t.Errorf("%d passed, want 20", passed.Load())
			}
			other := open(t, func(o *Options) { *o = s.o }, s.o.Addresses...)
			eventually(t, "messages arrive", func() bool { return other.Instances() == 2 && s.Instances() == 2 })
			heard := make(chan string, 10)
			other.OnPurge(func(what string) { heard <- what })
			eventually(t, "purges arrive", func() bool {
				if err := s.Purge("route r"); err != nil {
					t.Error(err)
				}
				select {
				case what := <-heard:
					return what == "route r"
				case <-time.After(100 * time.Millisecond):
					return false
				}
			})
		})
	}
	patient := func(o *Options) { o.Timeout = 10 * time.Second }
	f("single", func(t *testing.T) *Store { return open(t, patient, redistest.Start(t).Address) })
	f("password and database", func(t *testing.T) *Store {
		server := redistest.Start(t, "--requirepass", "t0p-s3cret")
		return open(t, func(o *Options) { patient(o); o.Password, o.DB = "t0p-s3cret", 3 }, server.Address)
	})
	f("user", func(t *testing.T) *Store {
		server := redistest.Start(t, "--user", "sluice", "on", ">t0p-s3cret", "~*", "&*", "+@all")
		return open(t, func(o *Options) { patient(o); o.Username, o.Password = "sluice", "t0p-s3cret" }, server.Address)
	})
	f("cluster", func(t *testing.T) *Store {
		server := redistest.Start(t, "--cluster-enabled", "yes")
		if got := server.Do("CLUSTER", "ADDSLOTSRANGE", "0", "16383"); got != "+OK" {
			t.Fatal(got)
		}
		return open(t, patient, server.Address)
	})
	f("sentinel", func(t *testing.T) *Store {
		server := redistest.Start(t)
		host, port, _ := net.SplitHostPort(server.Address)
		file := filepath.Join(t.TempDir(), "sentinel.conf")
		if err := os.WriteFile(file, []byte("sentinel monitor main "+host+" "+port+" 1\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		sentinel := redistest.Start(t, file, "--sentinel")
		return open(t, func(o *Options) { patient(o); o.Master = "main" }, sentinel.Address)
	})
	f("tls", func(t *testing.T) *Store {
		cert, key, pool := certificate(t)
		address := redistest.FreeAddress(t)
		_, port, _ := net.SplitHostPort(address)
		server := redistest.StartAt(t, address, "--port", "0", "--tls-port", port, "--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert, "--tls-auth-clients", "no")
		return open(t, func(o *Options) { patient(o); o.TLS = &tls.Config{RootCAs: pool} }, server.Address)
	})
}

// shares reports whether the store knows what this instance holds of a key.
func (l *Limiter) shares(key string) bool {
	l.mu.Lock()
	b := l.byName[l.name([]byte(key))]
	l.mu.Unlock()
	if b == nil {
		return false
	}
	b.guard.Lock()
	defer b.guard.Unlock()
	return b.told && !b.alone
}

func certificate(t *testing.T) (certFile, keyFile string, pool *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "redis"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool = x509.NewCertPool()
	cert, _ := x509.ParseCertificate(der)
	pool.AddCert(cert)
	return certFile, keyFile, pool
}

// Whatever becomes of the store, nobody who takes what is lent waits for it, and each goes on with its part.
func TestNobodyWaits(t *testing.T) {
	f := func(name string, trouble func(*redistest.Server, *redistest.Proxy), mend func(*redistest.Server, *redistest.Proxy)) {
		t.Run(name, func(t *testing.T) {
			server := redistest.Start(t)
			proxy := redistest.NewProxy(t, server.Address)
			all := []*Store{open(t, nil, proxy.Address), open(t, nil, proxy.Address), open(t, nil, proxy.Address)}
			l := bucketOf(10_000, time.Second, 10_000)
			for _, s := range all {
				s.limiter.Register(l)
				eventually(t, "all know of each other", func() bool { return s.Up() && s.Instances() == 3 })
			}
			var longest, passed atomic.Int64
			stop := make(chan struct{})
			var asking sync.WaitGroup
			for i, s := range all {
				take := taking(s, "k", l)
				asking.Go(func() {
					tick := time.NewTicker(time.Millisecond)
					defer tick.Stop()
					for {
						select {
						case <-stop:
							return
						case <-tick.C:
						}
						for range 9 - 3*i {
							// What the machine takes for itself is not this package's: locks held while calls are made would show in most.
							began := time.Now()
							if take() == Passed {
								passed.Add(1)
							}
							longest.Store(max(longest.Load(), int64(time.Since(began))))
						}
					}
				})
			}
			eventually(t, "requests pass", func() bool { return passed.Load() > 5000 })
			trouble(server, proxy)
			for _, s := range all {
				eventually(t, "the trouble is noticed", func() bool { return !s.Up() })
			}
			before := passed.Load()
			eventually(t, "each goes on with its part", func() bool { return passed.Load() > before+3000 })
			longest.Store(0)
			time.Sleep(500 * time.Millisecond)
			if d := time.Duration(longest.Load()); d >= 50*time.Millisecond {
				t.Errorf("a request waited for %v", d)
			}
			mend(server, proxy)
			for _, s := range all {
				eventually(t, "the store is back", s.Up)
				eventually(t, "the bucket is shared again", func() bool { return s.limiter.shares("k") })
			}
			before = passed.Load()
			eventually(t, "requests pass", func() bool { return passed.Load() > before+3000 })
			close(stop)
			asking.Wait()
		})
	}
	f("killed", func(s *redistest.Server, _ *redistest.Proxy) { s.Kill() }, func(s *redistest.Server, _ *redistest.Proxy) { s.Restart() })
	f("paused", func(s *redistest.Server, _ *redistest.Proxy) { s.Pause() }, func(s *redistest.Server, _ *redistest.Proxy) { s.Resume() })
	f("slow", func(_ *redistest.Server, p *redistest.Proxy) { p.Delay(100 * time.Millisecond) }, func(_ *redistest.Server, p *redistest.Proxy) { p.Delay(0) })
	f("cut off", func(_ *redistest.Server, p *redistest.Proxy) { p.Cut(true) }, func(_ *redistest.Server, p *redistest.Proxy) { p.Cut(false) })
}

// Of a bucket that earns nothing each token passes once, whoever asks whom, also while instances come and go.
func TestEachTokenPassesOnce(t *testing.T) {
	server := redistest.Start(t)
	patient := func(o *Options) { o.Timeout = 10 * time.Second }
	const keys, each = 5, 500
	l := NewLimits("test", []Window{{Requests: each, Per: 300 * 24 * time.Hour}}, 1, false)
	var all []*Store
	for range 3 {
		s := open(t, patient, server.Address)
		s.limiter.Register(l)
		all = append(all, s)
	}
	for _, s := range all {
		eventually(t, "all know of each other", func() bool { return s.Up() && s.Instances() == 3 })
	}
	var passed [keys]atomic.Int64
	ask := func(s *Store, seed uint64, stop func() bool) {
		r := mathrand.New(mathrand.NewPCG(seed, 1))
		var out [MaxWindows]limiter.Result
		for n := 0; !stop(); n++ {
			k := r.IntN(keys)
			if s.limiter.Take(s.o.Now(), []byte{'k', byte(k)}, l, out[:]) == Passed {
				passed[k].Add(1)
			}
			if n%20 == 19 {
				time.Sleep(time.Millisecond) // so that what is asked in the background is answered
			}
		}
	}
	done := func() bool {
		for i := range passed {
			if passed[i].Load() < each {
				return false
			}
		}
		return true
	}
	until := time.Now().Add(60 * time.Second)
	stop := func() bool { return done() || time.Now().After(until) }
	var asking sync.WaitGroup
	for i, s := range all[:2] {
		for j := range 2 {
			asking.Go(func() { ask(s, uint64(10*i+j), stop) })
		}
	}
	// One leaves in between: what it holds comes back.
	asking.Go(func() {
		n := 0
		ask(all[2], 99, func() bool { n++; return n > 100 || stop() })
		_ = all[2].Close()
	})
	asking.Wait()
	for _, s := range all[:2] {
		n := 0
		ask(s, 7, func() bool { n++; return n > 200 })
	}
	for i := range passed {
		if n := passed[i].Load(); n != each {
			t.Errorf("key %d: %d passed, want %d", i, n, each)
		}
	}
}

// A request that has to ask waits no longer than the timeout, also where many do.
func TestStrictWaitsNoLongerThanTheTimeout(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, func(o *Options) { o.Timeout = 200 * time.Millisecond }, server.Address)
	eventually(t, "the store answers", s.Up)
	l := NewLimits("strict", []Window{{Requests: 1_000_000, Per: time.Hour}}, 1, true)
	server.Pause()
	var longest atomic.Int64
	var all sync.WaitGroup
	for range 10_000 {
		all.Go(func() {
			var out [MaxWindows]limiter.Result
			began := time.Now()
			if v := s.limiter.TakeStrict(s.o.Now(), []Charge{{[]byte("k"), l, out[:]}}); v != Passed {
				t.Errorf("verdict %d", v)
			}
			for took := int64(time.Since(began)); took > longest.Load(); {
				longest.Store(took)
			}
		})
	}
	all.Wait()
	server.Resume()
	if d := time.Duration(longest.Load()); d > 2*time.Second { // ten thousand goroutines on a busy machine
		t.Errorf("a request waited for %v", d)
	}
	eventually(t, "the store is back", s.Up)
	eventually(t, "what was taken meanwhile is told", func() bool { return s.limiter.Len() == 0 })
}

// A purge reaches who was away: those it missed one by one, and everything where nobody knows.
func TestPurgesAreNotMissed(t *testing.T) {
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Address)
	a := open(t, nil, server.Address)
	b := open(t, nil, proxy.Address)
	var mu sync.Mutex
	var heard []string
	b.OnPurge(func(what string) { mu.Lock(); heard = append(heard, what); mu.Unlock() })
	has := func(want ...string) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return strings.Join(heard, ",") == strings.Join(want, ",")
		}
	}
	eventually(t, "both are up", func() bool { return a.Up() && b.Up() })
	purge := func(what string) {
		t.Helper()
		eventually(t, "the purge is told", func() bool { return a.Purge(what) == nil })
	}
	forget := func() { mu.Lock(); heard = nil; mu.Unlock() }
	last := func() string {
		mu.Lock()
		defer mu.Unlock()
		if len(heard) == 0 {
			return "nothing"
		}
		return heard[len(heard)-1]
	}
	eventually(t, "b listens", func() bool { purge("tag first"); return last() == "tag first" })
	purge("tag now")
	eventually(t, "it is heard", func() bool { return last() == "tag now" })
	forget()
	proxy.Cut(true)
	eventually(t, "b is cut off", func() bool { return !b.Up() })
	purge("tag x")
	purge("tag y")
	proxy.Cut(false)
	eventually(t, "what was missed is carried out in order", has("tag x", "tag y"))
	// A store that has forgotten its log leaves nobody the wiser.
	server.Restart()
	eventually(t, "both are up again", func() bool { return a.Up() && b.Up() })
	forget()
	purge("tag z")
	eventually(t, "all is purged", func() bool { return last() != "nothing" })
	// A purge that can not be told is told later.
	server.Kill()
	eventually(t, "the store is gone", func() bool { return !a.Up() })
	if a.Purge("tag later") == nil {
		t.Error("a purge was told to nobody")
	}
	server.Restart()
	forget()
	eventually(t, "it is told later", func() bool { return last() != "nothing" })
}

func TestRecords(t *testing.T) {
	server := redistest.Start(t)
	patient := func(o *Options) { o.Timeout = 10 * time.Second }
	a, b := open(t, patient, server.Address), open(t, patient, server.Address)
	eventually(t, "both are up", func() bool { return a.Up() && b.Up() })
	begin := func(s *Store, key, print string, want RecordState) (claim string, answer []byte) {
		t.Helper()
		state, claim, answer, err := s.records.Begin([]byte(key), []byte(print), time.Hour)
		if err != nil || state != want {
			t.Fatalf("%s: %s %v, want %s", key, state, err, want)
		}
		return claim, answer
	}
	claim, _ := begin(a, "k", "p", RecordClaimed)
	begin(b, "k", "p", RecordInFlight)
	begin(b, "k", "other", RecordReused)
	a.records.Complete([]byte("k"), claim, time.Hour, []byte("the answer\x00"))
	if _, answer := begin(b, "k", "p", RecordAnswered); string(answer) != "the answer\x00" {
		t.Errorf("%q", answer)
	}
	claim, _ = begin(a, "free", "p", RecordClaimed)
	a.records.Release([]byte("free"), claim)
	claim, _ = begin(b, "free", "p", RecordClaimed)
	b.records.Complete([]byte("free"), claim, time.Hour, nil)
	begin(a, "free", "p", RecordLost)
	// A claim is kept alive, and one whose instance is gone is neither free nor in flight.
	claim, _ = begin(a, "dead", "p", RecordClaimed)
	server.Do("HSET", a.records.name([]byte("dead")), "u", "1")
	a.records.renew()
	begin(b, "dead", "p", RecordInFlight)
	server.Do("HSET", a.records.name([]byte("dead")), "u", "1")
	begin(b, "dead", "p", RecordLost)
	// Whoever comes late settles it all the same.
	a.records.Complete([]byte("dead"), claim, time.Hour, []byte("late"))
	begin(b, "dead", "p", RecordAnswered)
	// What can not be written is written later.
	claim, _ = begin(a, "later", "p", RecordClaimed)
	a.up.Store(false)
	a.records.Complete([]byte("later"), claim, time.Hour, []byte("x"))
	a.records.Put([]byte("alone"), []byte("p"), time.Hour, []byte("y"))
	begin(b, "later", "p", RecordInFlight)
	a.up.Store(true)
	a.records.settle()
	begin(b, "later", "p", RecordAnswered)
	if _, answer := begin(b, "alone", "p", RecordAnswered); string(answer) != "y" {
		t.Errorf("%q", answer)
	}
	held := func(what string, want int) {
		t.Helper()
		a.records.mu.Lock()
		defer a.records.mu.Unlock()
		if len(a.records.claims) != want {
			t.Errorf("%s: %d claims are renewed, want %d", what, len(a.records.claims), want)
		}
	}
	held("all are settled", 0)
	// A claim whose record is gone is renewed no more, nor is one whose end there was no room to remember: it would be in flight for ever.
	begin(a, "gone", "p", RecordClaimed)
	server.Do("DEL", a.records.name([]byte("gone")))
	held("in flight", 1)
	a.records.renew()
	held("its record is gone", 0)
	claim, _ = begin(a, "overflow", "p", RecordClaimed)
	a.up.Store(false)
	a.records.mu.Lock()
	a.records.pending = slices.Repeat([]command{{&recordScript, a.records.name([]byte("other")), []string{"release", "-"}}}, maxPending)
	a.records.mu.Unlock()
	a.records.Complete([]byte("overflow"), claim, time.Hour, []byte("x"))
	a.records.mu.Lock()
	a.records.pending = nil
	a.records.mu.Unlock()
	a.up.Store(true)
	held("its end is forgotten", 0)
	server.Do("HSET", a.records.name([]byte("overflow")), "u", "1")
	a.records.renew()
	begin(b, "overflow", "p", RecordLost)
}

func TestQuotas(t *testing.T) {
	server := redistest.Start(t)
	patient := func(o *Options) { o.Timeout = 10 * time.Second }
	a, b := open(t, patient, server.Address), open(t, patient, server.Address)
	eventually(t, "both are up", func() bool { return a.Up() && b.Up() })
	end := time.Now().Add(time.Hour).Unix()
	var passed atomic.Int64
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			c := []QuotaCharge{{Key: []byte("k"), Start: 1, End: end, Weight: 1, Requests: 120}}
			[]*Store{a, b}[i%2].ChargeQuotas(c)
			if c[0].Told && c[0].Passed {
				passed.Add(1)
			}
		})
	}
	all.Wait()
	if passed.Load() != 120 {
		t.Errorf("%d passed, want 120", passed.Load())
	}
	key := "k"
	f := func(c QuotaCharge, passed bool, used int64) {
		t.Helper()
		c.Key, c.Start, c.End, c.Requests = []byte(key), 1, end, 120
		all := []QuotaCharge{c}
		a.ChargeQuotas(all)
		if got := all[0]; !got.Told || got.Passed != passed || got.Used != used {
			t.Errorf("%+v", got)
		}
	}
	f(QuotaCharge{Weight: 1}, false, 120)
	f(QuotaCharge{Owed: 5}, true, 125) // what was used without the store counts too
	f(QuotaCharge{Weight: -10}, true, 115)
	f(QuotaCharge{Weight: 6}, false, 115)
	f(QuotaCharge{Weight: 5}, true, 120)

	// A call whose answer was lost comes to what it is said to have taken, whether it was carried out before, after, or never.
	lost := func(nonce string, owed, took int64) []LostCharge { return []LostCharge{{nonce, owed, took}} }
	c := QuotaCharge{Key: []byte("lost"), Start: 1, End: end, Weight: 10, Owed: 3, Requests: 120}
	key = "lost"
	all13 := []QuotaCharge{c}
	a.ChargeQuotas(all13)
	f(QuotaCharge{}, true, 13)
	f(QuotaCharge{Lost: lost(all13[0].Nonce, 3, 0)}, true, 3)
	f(QuotaCharge{Lost: lost(all13[0].Nonce, 3, 0)}, true, 3)
	f(QuotaCharge{Lost: lost("x:1", 3, 10)}, true, 16)
	c.Nonce = "x:1" // comes now
	if n, err := a.ask("quota", a.quota(&c))[0].AsIntSlice(); err != nil || n[1] != 16 {
		t.Error(n, err)
	}
	f(QuotaCharge{Weight: 200}, false, 16)
	f(QuotaCharge{Over: []string{"x:1", all13[0].Nonce}}, true, 16)
	name := a.quota(&c).key
	if n := server.Do("HLEN", name); n != ":1" {
		t.Errorf("%s fields are left", n)
	}
	if left := server.Do("TTL", name); left < ":3600" || len(left) != len(":3600") {
		t.Errorf("it is kept for %s s", left)
	}
	// Looking writes nothing.
	c = QuotaCharge{Key: []byte("looked at"), Start: 1, End: end, Requests: 1}
	a.ChargeQuotas([]QuotaCharge{c})
	if server.Do("EXISTS", a.quota(&c).key) != ":0" {
		t.Error("who looks writes")
	}
}

// A bucket that takes longer to be full again than the store can remember anything is counted all the same.
func TestHugeBucket(t *testing.T) {
	server := redistest.Start(t)
	s := open(t, func(o *Options) { o.Timeout, o.OnFailure = 10*time.Second, Deny }, server.Address)
	eventually(t, "the store answers", s.Up)
	l := NewLimits("test", []Window{{Requests: 1, Per: 366 * 24 * time.Hour, Burst: 1e12}}, 5e11, true)
	var out [1]limiter.Result
	for _, want := range []Verdict{Passed, Passed, Refused} {
		if v := s.limiter.TakeStrict(s.o.Now(), []Charge{{[]byte("huge"), l, out[:]}}); v != want {
			t.Errorf("%v, want %v", v, want)
		}
	}
}

// A key that is something else in the store is said, and no reason to take the store for gone.
func TestKeyThatIsNone(t *testing.T) {
	server := redistest.Start(t)
	var said atomic.Int64
	s := open(t, func(o *Options) {
		o.Log = slog.New(slog.NewTextHandler(writer(func(b []byte) {
			if strings.Contains(string(b), "can not be counted") && strings.Contains(string(b), "limit:test:") {
				said.Add(1)
			}
		}), nil))
	}, server.Address)
	eventually(t, "the store answers", s.Up)
	key := []byte("test\x00caller")
	name := s.limiter.name(key)
	server.Do("SET", name, "garbage")
	l := bucketOf(100, time.Hour, 100)
	take := taking(s, string(key), l)
	passed := 0
	eventually(t, "it is said", func() bool {
		if take() == Passed {
			passed++
		}
		return said.Load() > 0
	})
	for range 200 {
		if take() == Passed {
			passed++
		}
	}
	if passed > 100 || !s.Up() || said.Load() != 1 {
		t.Errorf("%d passed, up %v, said %d times", passed, s.Up(), said.Load())
	}
	server.Do("DEL", name)
	eventually(t, "it is counted when it can be", func() bool { take(); return s.limiter.told(key) })
}

func (l *Limiter) told(key []byte) bool {
	sh := l.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	b := sh.buckets[string(key)]
	return b != nil && b.told
}

// Names that others speak of take no room without end.
func TestStraysAreBounded(t *testing.T) {
	s := Open(Options{Addresses: []string{"127.0.0.1:1"}, Timeout: 50 * time.Millisecond, Now: func() int64 { return 1 }, Wall: time.Now})
	defer s.stop()
	l := bucketOf(100, time.Hour, 100)
	s.limiter.Register(l)
	for i := range maxStrays + 10 {
		s.limiter.recalled(l.id, strconv.Itoa(i))
	}
	if n := len(s.limiter.byName); n != maxStrays {
		t.Errorf("%d are kept", n)
	}
}
