package kong_test

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"sluice/gateway"
	"sluice/gateway/cluster/redistest"
)

// counting starts a gateway with rate-limiting over a Redis, by the clock that the Redis has too.
func counting(t *testing.T, address, options string) *gateway.Gateway {
	t.Helper()
	host, port, _ := net.SplitHostPort(address)
	return oursBy(t, nil, oneService+"plugins:\n- name: rate-limiting\n  config: {policy: redis, redis: {host: "+host+", port: "+port+", password: a-secret, timeout: 10000}, "+options+"}\n")
}

// inOneMinute runs f until a run has begun and ended in one minute of the clock.
func inOneMinute(t *testing.T, f func(minute int64) (problem string)) {
	t.Helper()
	for {
		minute := time.Now().Unix() / 60
		problem := f(minute)
		if time.Now().Unix()/60 != minute {
			continue
		}
		if problem != "" {
			t.Error(problem)
		}
		return
	}
}

// Gateways that count through one Redis count Kong's windows together, to the last request, and tell clients what Kong does.
func TestLimitsAreSharedThroughRedis(t *testing.T) {
	inOneMinute(t, func(minute int64) string {
		s := redistest.Start(t, "--requirepass", "a-secret")
		gs := []*gateway.Gateway{counting(t, s.Address, "minute: 5, hour: 1000"), counting(t, s.Address, "minute: 5, hour: 1000")}
		for i := range 7 {
			before := time.Now().Unix()
			a := send(t, gs[i%2], "GET", "/users", "")
			h := a.header
			left, status, again := max(0, 4-i), 200, ""
			if i > 4 {
				status, again = 429, h.Get("RateLimit-Reset")
			}
			// The window is the minute of the clock.
			reset, _ := strconv.ParseInt(h.Get("RateLimit-Reset"), 10, 64)
			if end := (minute + 1) * 60; reset < end-time.Now().Unix() || reset > end-before {
				return fmt.Sprintf("request %d: the window ends in %d s, want %d", i, reset, end-before)
			}
			for name, want := range map[string]string{
				"X-RateLimit-Limit-Minute": "5", "X-RateLimit-Remaining-Minute": strconv.Itoa(left), "X-RateLimit-Limit-Hour": "1000",
				"X-RateLimit-Remaining-Hour": strconv.Itoa(1000 - min(i+1, 5)), "RateLimit-Limit": "5", "RateLimit-Remaining": strconv.Itoa(left), "Retry-After": again,
			} {
				if h.Get(name) != want || a.status != status {
					return fmt.Sprintf("request %d: %d, %s is %q, want %d, %q", i, a.status, name, h.Get(name), status, want)
				}
			}
			if status == 429 && a.message(t) != "API rate limit exceeded" {
				return a.body
			}
		}
		return ""
	})
}

// A window that has ended is forgotten by all.
func TestWindowsOverRedisEnd(t *testing.T) {
	s := redistest.Start(t, "--requirepass", "a-secret")
	gs := []*gateway.Gateway{counting(t, s.Address, "second: 1"), counting(t, s.Address, "second: 1")}
	passed := map[int64]int{}
	refused := 0
	for i := 0; len(passed) < 3; i++ {
		before := time.Now().Unix()
		a := send(t, gs[i%2], "GET", "/users", "")
		switch a.status {
		case 200:
			if after := time.Now().Unix(); after == before {
				passed[after]++
			}
		case 429:
			refused++
		default:
			t.Fatal(a.status, a.body)
		}
	}
	for second, n := range passed {
		if n > 1 {
			t.Errorf("%d passed in second %d", n, second)
		}
	}
	if refused == 0 {
		t.Error("nothing was refused")
	}
}

// fault_tolerant says what becomes of requests while the Redis is gone; they are counted again when it is back.
func TestLimitsWithoutRedis(t *testing.T) {
	f := func(tolerant bool, status int) {
		t.Helper()
		s := redistest.Start(t, "--requirepass", "a-secret")
		g := counting(t, s.Address, fmt.Sprintf("day: 1000, fault_tolerant: %v", tolerant))
		if a := send(t, g, "GET", "/users", ""); a.status != 200 || a.header.Get("RateLimit-Remaining") == "" {
			t.Errorf("%v: %d %v", tolerant, a.status, a.header)
		}
		s.Kill()
		for range 3 {
			a := send(t, g, "GET", "/users", "")
			if a.status != status || a.header.Get("RateLimit-Remaining") != "" || a.header.Get("X-RateLimit-Remaining-Day") != "" {
				t.Errorf("%v: %d %v without Redis, want %d", tolerant, a.status, a.header, status)
			}
			if status == 503 {
				a.message(t)
			}
		}
		s.Restart()
		for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
			a := send(t, g, "GET", "/users", "")
			if a.status == http.StatusOK && a.header.Get("RateLimit-Remaining") != "" {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("%v: %d %v when Redis is back", tolerant, a.status, a.header)
			}
		}
	}
	f(true, 200)
	f(false, 503)
}

// Who hides the headers hides them over Redis too, and callers have limits of their own.
func TestCallersOverRedis(t *testing.T) {
	s := redistest.Start(t, "--requirepass", "a-secret")
	g := counting(t, s.Address, "year: 1, limit_by: header, header_name: X-Tenant, hide_client_headers: true, error_code: 420, error_message: Calm down")
	f := func(tenant string, status int) {
		t.Helper()
		a := send(t, g, "GET", "/users", "", "X-Tenant", tenant)
		if a.status != status || a.header.Get("RateLimit-Remaining") != "" || a.header.Get("X-RateLimit-Remaining-Year") != "" || a.header.Get("Retry-After") != "" {
			t.Errorf("%s: %d %v, want %d", tenant, a.status, a.header, status)
		}
		if status == 420 && a.message(t) != "Calm down" {
			t.Error(a.body)
		}
	}
	f("one", 200)
	f("two", 200)
	f("one", 420)
	f("two", 420)
}

// A wrong password is a Redis that is gone.
func TestWrongPasswordOfRedis(t *testing.T) {
	s := redistest.Start(t, "--requirepass", "another-secret")
	g := counting(t, s.Address, "day: 1, fault_tolerant: false")
	if a := send(t, g, "GET", "/users", ""); a.status != 503 {
		t.Errorf("%d %s", a.status, a.body)
	}
}
