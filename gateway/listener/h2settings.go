package listener

import (
	"encoding/binary"
	"io"

	"golang.org/x/net/http2"
)

// settingsWatch reads the frames that a client sends, for its settings: one may be given several times, in whose order they
// count (RFC 9113, section 6.5.3), which the engine takes for an attack. Of those the last alone is left, under its name.
type settingsWatch struct {
	conn  io.Reader
	begun int // bytes of the preface that have come
	skip  int // bytes of a payload to come
	have  int // bytes in head
	head  [frameHead]byte
}

const (
	settingSize = 6
	// mostSettings is what the engine takes of them in a frame.
	mostSettings = 100
	// noSetting and those behind it are names that stand for nothing.
	noSetting = 0xff00
)

func (w *settingsWatch) Read(p []byte) (int, error) {
	n, err := w.conn.Read(p)
	w.feed(p[:n])
	return n, err
}

// feed reads on in p, and changes settings there. Those of a frame that has come in parts stay as they are.
func (w *settingsWatch) feed(p []byte) {
	n := min(len(http2.ClientPreface)-w.begun, len(p))
	w.begun += n
	for p = p[n:]; len(p) > 0; {
		if w.skip > 0 {
			n := min(w.skip, len(p))
			w.skip -= n
			p = p[n:]
			continue
		}
		n := copy(w.head[w.have:], p)
		w.have += n
		p = p[n:]
		if w.have < frameHead {
			return
		}
		w.have = 0
		w.skip = int(w.head[0])<<16 | int(w.head[1])<<8 | int(w.head[2])
		if http2.FrameType(w.head[3]) == http2.FrameSettings && w.skip <= min(len(p), mostSettings*settingSize) {
			onceEach(p[:w.skip])
		}
	}
}

// onceEach takes the names of settings that are given again further on. One that is not valid keeps it: it is an error.
func onceEach(settings []byte) {
	id := func(at int) uint16 { return binary.BigEndian.Uint16(settings[at:]) }
	for at := 0; at+settingSize <= len(settings); at += settingSize {
		given := http2.Setting{ID: http2.SettingID(id(at)), Val: binary.BigEndian.Uint32(settings[at+2:])}
		for later := at + settingSize; later+settingSize <= len(settings); later += settingSize {
			if id(later) == id(at) && given.Valid() == nil {
				binary.BigEndian.PutUint16(settings[at:], noSetting+uint16(at/settingSize))
				break
			}
		}
	}
}
