package telemetry

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"
)

// NewLogger makes the operator's log, writing to w as "json" or "text" whatever is at least of level (debug, info, warn, error). The
// level can be changed through the returned variable while the log is used.
//
// Values under keys that look like secrets are masked, and so are passwords inside of URLs and credentials after "Bearer" and "Basic",
// wherever they stand in a message, a string or an error.
func NewLogger(w io.Writer, level, format string) (*slog.Logger, *slog.LevelVar, error) {
	lv := new(slog.LevelVar)
	if err := SetLevel(lv, level); err != nil {
		return nil, nil, err
	}
	o := &slog.HandlerOptions{Level: lv, ReplaceAttr: mask}
	switch format {
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), lv, nil
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), lv, nil
	}
	return nil, nil, fmt.Errorf("unknown log format %q; it is json or text", format)
}

// SetLevel sets lv to the level of that name: debug, info, warn or error.
func SetLevel(lv *slog.LevelVar, name string) error {
	switch strings.ToLower(name) {
	case "debug":
		lv.Set(slog.LevelDebug)
	case "info":
		lv.Set(slog.LevelInfo)
	case "warn":
		lv.Set(slog.LevelWarn)
	case "error":
		lv.Set(slog.LevelError)
	default:
		return fmt.Errorf("unknown log level %q; it is debug, info, warn or error", name)
	}
	return nil
}

const masked = "***"

func mask(groups []string, a slog.Attr) slog.Attr {
	if secretKey(a.Key) {
		return slog.String(a.Key, masked)
	}
	for _, g := range groups {
		if secretKey(g) {
			return slog.String(a.Key, masked)
		}
	}
	switch a.Value.Kind() {
	case slog.KindString:
		a.Value = slog.StringValue(maskText(a.Value.String()))
	case slog.KindAny:
		switch v := a.Value.Any().(type) {
		case error:
			a.Value = slog.StringValue(maskText(fmt.Sprint(v))) // Sprint survives a nil pointer
		case *url.URL:
			if v != nil {
				a.Value = slog.StringValue(maskText(v.Redacted()))
			}
		case []string:
			texts := make([]string, len(v))
			for i, s := range v {
				texts[i] = maskText(s)
			}
			a.Value = slog.AnyValue(texts)
		}
	}
	return a
}

func secretKey(key string) bool {
	k := strings.NewReplacer("-", "", "_", "", ".", "", " ", "").Replace(strings.ToLower(key))
	for _, part := range []string{
		"password", "passwd", "passphrase", "secret", "token", "authorization", "cookie", "apikey", "privatekey", "credential", "signature",
	} {
		if strings.Contains(k, part) {
			return true
		}
	}
	return false
}

var (
	urlPassword = regexp.MustCompile(`(://[^/?#\s:@"]*):[^/?#\s"]*@`)
	authScheme  = regexp.MustCompile(`(?i)\b(bearer|basic)\s+[A-Za-z0-9+/=._~-]{8,}`)
)

func maskText(s string) string {
	if strings.Contains(s, "://") {
		s = urlPassword.ReplaceAllString(s, "${1}:"+masked+"@")
	}
	return authScheme.ReplaceAllString(s, "${1} "+masked)
}

// Limited logs events that could come in floods: each key once per interval, with the number left out since. It may be used
// concurrently.
type Limited struct {
	log      *slog.Logger
	interval time.Duration

	mu   sync.Mutex
	keys map[string]*limitedKey
}

type limitedKey struct {
	last       time.Time
	suppressed int
}

// maxLimitedKeys bounds the memory of a Limited; keys beyond share one.
const maxLimitedKeys = 1024

// NewLimited limits log.
func NewLimited(log *slog.Logger, interval time.Duration) *Limited {
	return &Limited{log: log, interval: interval, keys: map[string]*limitedKey{}}
}

// Log logs msg unless something with the same key was logged within the interval; then it is counted, and the count
// given as "suppressed" with the next one.
func (l *Limited) Log(level slog.Level, key, msg string, args ...any) {
	ctx := context.Background()
	if !l.log.Enabled(ctx, level) {
		return
	}
	suppressed, due := l.due(key)
	if !due {
		return
	}
	if suppressed > 0 {
		args = append(args[:len(args):len(args)], "suppressed", suppressed)
	}
	l.log.Log(ctx, level, msg, args...)
}

func (l *Limited) due(key string) (suppressed int, due bool) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.keys[key]
	if k == nil && len(l.keys) >= maxLimitedKeys {
		for name, have := range l.keys {
			if now.Sub(have.last) >= l.interval {
				delete(l.keys, name)
			}
		}
		if len(l.keys) >= maxLimitedKeys {
			key = other
			k = l.keys[key]
		}
	}
	if k == nil {
		l.keys[key] = &limitedKey{last: now}
		return 0, true
	}
	if now.Sub(k.last) < l.interval {
		k.suppressed++
		return 0, false
	}
	suppressed = k.suppressed
	k.last, k.suppressed = now, 0
	return suppressed, true
}
