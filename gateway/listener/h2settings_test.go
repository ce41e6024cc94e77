package listener

import (
	"bytes"
	"io"
	"slices"
	"testing"

	"golang.org/x/net/http2"
)

// What is said of a setting last remains, wherever reads end between frames.
func TestSettingsWatch(t *testing.T) {
	const window, streams = http2.SettingInitialWindowSize, http2.SettingMaxConcurrentStreams
	type settings = []http2.Setting
	for _, c := range []struct {
		name        string
		given, want settings
	}{
		{"none", nil, nil},
		{"once each", settings{{ID: window, Val: 1}, {ID: streams, Val: 2}}, settings{{ID: window, Val: 1}, {ID: streams, Val: 2}}},
		{"twice", settings{{ID: window, Val: 1}, {ID: streams, Val: 2}, {ID: window, Val: 3}}, settings{{ID: noSetting, Val: 1}, {ID: streams, Val: 2}, {ID: window, Val: 3}}},
		{"thrice", settings{{ID: window, Val: 1}, {ID: window, Val: 2}, {ID: window, Val: 3}}, settings{{ID: noSetting, Val: 1}, {ID: noSetting + 1, Val: 2}, {ID: window, Val: 3}}},
		{"a wrong one first", settings{{ID: http2.SettingMaxFrameSize, Val: 1}, {ID: http2.SettingMaxFrameSize, Val: 1 << 20}}, settings{{ID: http2.SettingMaxFrameSize, Val: 1}, {ID: http2.SettingMaxFrameSize, Val: 1 << 20}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var sent bytes.Buffer
			sent.WriteString(http2.ClientPreface)
			fr := http2.NewFramer(&sent, &sent)
			_ = fr.WriteSettings(c.given...)
			first := sent.Len()
			_ = fr.WriteData(1, false, bytes.Repeat([]byte{0, 0, 6, 4}, 100))
			_ = fr.WriteSettings(c.given...)
			text := sent.Bytes()
			for cut := 0; cut <= len(text); cut++ {
				got := slices.Clone(text)
				var w settingsWatch
				w.feed(got[:cut])
				w.feed(got[cut:])
				fr := http2.NewFramer(io.Discard, bytes.NewReader(got[len(http2.ClientPreface):]))
				from, to := len(http2.ClientPreface), first
				for range 3 {
					f, err := fr.ReadFrame()
					if err != nil {
						t.Fatal(err)
					}
					s, ok := f.(*http2.SettingsFrame)
					if !ok {
						from, to = len(text)-first+len(http2.ClientPreface), len(text)
						continue
					}
					want := c.want
					if cut >= from+frameHead && cut < to {
						want = c.given // in parts
					}
					var all settings
					_ = s.ForeachSetting(func(s http2.Setting) error { all = append(all, s); return nil })
					if !slices.Equal(all, want) {
						t.Fatalf("cut at %d: %v, want %v", cut, all, want)
					}
				}
			}
		})
	}
}
