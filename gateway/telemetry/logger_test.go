package telemetry

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestLoggerMasksSecrets(t *testing.T) {
	f := func(key string, value any, want string) {
		t.Helper()
		for _, format := range []string{"json", "text"} {
			var b bytes.Buffer
			log, _, err := NewLogger(&b, "info", format)
			if err != nil {
				t.Fatal(err)
			}
			log.Info("m", key, value)
			if format == "json" {
				var got map[string]any
				if err := json.Unmarshal(b.Bytes(), &got); err != nil {
					t.Fatal(err)
				}
				if fmt.Sprint(got[key]) != want {
					t.Errorf("%s is %v, want %s", key, got[key], want)
				}
			}
			if strings.Contains(b.String(), "hunter2") {
				t.Errorf("leaked: %s", b.String())
			}
		}
	}
	f("password", "hunter2", masked)
	f("Authorization", []byte("hunter2"), masked)
	f("jwt_secret", "hunter2", masked)
	f("X-API-Key", "hunter2", masked)
	f("admin.token", "hunter2", masked)
	f("tls_private_key", "hunter2", masked)
	f("credentials", map[string]string{"a": "hunter2"}, masked)
	f("key", "cache", "cache")
	f("address", "redis://user:hunter2@host:1/0", "redis://user:***@host:1/0")
	f("url", &url.URL{Scheme: "http", Host: "h", User: url.UserPassword("u", "hunter2")}, "http://u:***@h")
	f("error", errors.New(`Get "http://u:hunter2@h/": refused`), `Get "http://u:***@h/": refused`)
	f("list", []string{"Authorization: Bearer hunter2hunter2"}, "[Authorization: Bearer ***]")
	f("error", (*nilError)(nil), "<nil>")
	f("secrets", slog.GroupValue(slog.String("a", "hunter2")), "map[a:***]")
}

type nilError struct{ text string }

func (e *nilError) Error() string { return e.text }

func TestLoggerLevel(t *testing.T) {
	var b bytes.Buffer
	log, level, err := NewLogger(&b, "WARN", "text")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("one")
	if err := SetLevel(level, "debug"); err != nil {
		t.Fatal(err)
	}
	log.Debug("two with basic dXNlcjpwYXNz")
	if s := b.String(); strings.Contains(s, "one") || !strings.Contains(s, "two with basic ***") {
		t.Errorf("logged %s", s)
	}
	for _, c := range [][2]string{{"loud", "json"}, {"info", "xml"}, {"", "json"}} {
		if _, _, err := NewLogger(&b, c[0], c[1]); err == nil {
			t.Errorf("%v is accepted", c)
		}
	}
}

func TestLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b bytes.Buffer
		log, level, _ := NewLogger(&b, "info", "text")
		l := NewLimited(log, time.Minute)
		lines := func(want int) {
			t.Helper()
			if n := strings.Count(b.String(), "\n"); n != want {
				t.Errorf("%d lines, want %d:\n%s", n, want, b.String())
			}
		}
		for range 5 {
			l.Log(slog.LevelWarn, "a", "first")
			l.Log(slog.LevelWarn, "b", "second", "k", 1)
		}
		lines(2)
		time.Sleep(time.Minute)
		l.Log(slog.LevelWarn, "a", "first", "k", 1)
		lines(3)
		if !strings.Contains(b.String(), "k=1 suppressed=4") {
			t.Errorf("logged %s", b.String())
		}
		level.Set(slog.LevelError)
		l.Log(slog.LevelWarn, "c", "too low")
		lines(3)
		level.Set(slog.LevelInfo)

		for i := range 2 * maxLimitedKeys {
			l.Log(slog.LevelWarn, fmt.Sprint(i), "flood")
		}
		if len(l.keys) > maxLimitedKeys+1 {
			t.Errorf("%d keys", len(l.keys))
		}
		time.Sleep(time.Minute)
		l.Log(slog.LevelWarn, "fresh", "after the flood")
		if len(l.keys) != 1 {
			t.Errorf("%d keys are kept that are over", len(l.keys))
		}
	})
}
