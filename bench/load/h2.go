//go:build linux

package load

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2/hpack"
)

// What is used of RFC 9113.
const (
	preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

	frameData         = 0
	frameHeaders      = 1
	frameReset        = 3
	frameSettings     = 4
	framePing         = 6
	frameGoAway       = 7
	frameWindow       = 8
	frameContinuation = 9

	flagEndStream  = 0x1 // of SETTINGS and PING: acknowledged
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20

	settingWindow = 4

	frameHead     = 9
	maxFrame      = 16 << 10
	firstWindow   = 65535
	largestWindow = 1<<31 - 1
)

// h2 repeats a request on one connection of HTTP/2, on many streams at once. It
// knows what that needs and no more: each request is the same bytes, and of an
// answer only the status and the length of the body are looked at. It is not
// for concurrent use.
type h2 struct {
	conn io.ReadWriteCloser
	// first and again are the request's fields: those of the first request enter
	// the peer's table, where all later requests find every one of them.
	first, again []byte
	body         []byte
	status       int
	length       int // of the answer's body; negative: any

	out     []byte // not yet written
	in      []byte
	n       int // bytes in it that are not yet parsed
	next    uint32
	streams map[uint32]h2stream
	window  int             // what may still be sent of bodies
	held    []time.Duration // requests that wait for that, by when they were to be sent
	unseen  uint32          // received of bodies since the peer was told so
	decoder *hpack.Decoder
	seen    int // the status that decoder has come upon
}

// h2stream is a request that waits for its answer.
type h2stream struct {
	since time.Duration
	got   int // bytes of the body
	head  bool
}

// newH2 begins to speak HTTP/2 on a connection. The request is one of HTTP/1.1.
func newH2(conn io.ReadWriteCloser, scheme, request string, status, length int) (*h2, error) {
	c := &h2{
		conn: conn, status: status, length: length, next: 1, window: firstWindow,
		in: make([]byte, 4*maxFrame), streams: make(map[uint32]h2stream),
	}
	c.decoder = hpack.NewDecoder(4096, func(f hpack.HeaderField) {
		if f.Name == ":status" {
			c.seen, _ = strconv.Atoi(f.Value)
		}
	})
	if err := c.encode(scheme, request); err != nil {
		return nil, err
	}
	// Answers may be of any length: neither window is ever in their way.
	c.out = append(c.out, preface...)
	c.out = appendFrame(c.out, frameSettings, 0, 0, binary.BigEndian.AppendUint32([]byte{0, settingWindow}, largestWindow))
	c.out = appendFrame(c.out, frameWindow, 0, 0, binary.BigEndian.AppendUint32(nil, largestWindow-firstWindow))
	return c, nil
}

func (c *h2) encode(scheme, request string) error {
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(request)))
	if err != nil {
		return err
	}
	if c.body, err = io.ReadAll(r.Body); err != nil {
		return err
	}
	if len(c.body) > maxFrame {
		return fmt.Errorf("over HTTP/2 a body of at most %d bytes is sent, not one of %d", maxFrame, len(c.body))
	}
	all := []hpack.HeaderField{
		{Name: ":method", Value: r.Method}, {Name: ":scheme", Value: scheme}, {Name: ":authority", Value: r.Host}, {Name: ":path", Value: r.RequestURI},
	}
	for name, values := range r.Header {
		for _, v := range values {
			all = append(all, hpack.HeaderField{Name: strings.ToLower(name), Value: v})
		}
	}
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, block := range []*[]byte{&c.first, &c.again} {
		b.Reset()
		for _, f := range all {
			if err := e.WriteField(f); err != nil {
				return err
			}
		}
		*block = bytes.Clone(b.Bytes())
	}
	return nil
}

func appendFrame(b []byte, kind, flags byte, stream uint32, payload []byte) []byte {
	n := len(payload)
	b = append(b, byte(n>>16), byte(n>>8), byte(n), kind, flags)
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

// request sends one more with the next flush; since comes back with its answer.
func (c *h2) request(since time.Duration) {
	if len(c.body) > c.window {
		c.held = append(c.held, since)
		return
	}
	id, block, flags := c.next, c.again, byte(flagEndHeaders)
	c.next += 2
	if id == 1 {
		block = c.first
	}
	if len(c.body) == 0 {
		flags |= flagEndStream
	}
	c.out = appendFrame(c.out, frameHeaders, flags, id, block)
	if len(c.body) > 0 {
		c.out = appendFrame(c.out, frameData, flagEndStream, id, c.body)
		c.window -= len(c.body)
	}
	c.streams[id] = h2stream{since: since}
}

func (c *h2) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	_, err := c.conn.Write(c.out)
	c.out = c.out[:0]
	return err
}

// progress reads once and calls done for every answer that is complete.
func (c *h2) progress(done func(since time.Duration)) error {
	k, err := c.conn.Read(c.in[c.n:])
	if err != nil {
		return fmt.Errorf("cannot receive: %w", err)
	}
	c.n += k
	at := 0
	for c.n-at >= frameHead {
		h := c.in[at : at+frameHead]
		size := int(h[0])<<16 | int(h[1])<<8 | int(h[2])
		if size > maxFrame {
			return fmt.Errorf("a frame of %d bytes", size)
		}
		if c.n-at < frameHead+size {
			break
		}
		at += frameHead
		if err := c.frame(h[3], h[4], binary.BigEndian.Uint32(h[5:])&largestWindow, c.in[at:at+size], done); err != nil {
			return err
		}
		at += size
	}
	c.n = copy(c.in, c.in[at:c.n])
	return nil
}

var errFrame = errors.New("a frame that can not be read")

func (c *h2) frame(kind, flags byte, id uint32, payload []byte, done func(time.Duration)) error {
	switch kind {
	case frameHeaders:
		return c.headers(flags, id, payload, done)
	case frameData:
		return c.data(flags, id, payload, done)
	case frameWindow:
		if len(payload) != 4 {
			return errFrame
		}
		if id == 0 {
			c.window += int(binary.BigEndian.Uint32(payload) & largestWindow)
			held := c.held
			c.held = nil
			for _, since := range held {
				c.request(since)
			}
		}
	case frameSettings:
		if flags&flagEndStream == 0 {
			c.out = appendFrame(c.out, frameSettings, flagEndStream, 0, nil)
		}
	case framePing:
		if flags&flagEndStream == 0 {
			c.out = appendFrame(c.out, framePing, flagEndStream, 0, payload)
		}
	case frameReset:
		return fmt.Errorf("the gateway reset a stream instead of answering: %x", payload)
	case frameGoAway:
		return fmt.Errorf("the gateway ended the connection: %q", payload)
	case frameContinuation:
		return errors.New("the head of an answer is in more than one frame")
	}
	return nil
}

func (c *h2) headers(flags byte, id uint32, payload []byte, done func(time.Duration)) error {
	payload, ok := unpad(flags, payload)
	if flags&flagPriority != 0 && ok {
		if ok = len(payload) >= 5; ok {
			payload = payload[5:]
		}
	}
	if !ok || flags&flagEndHeaders == 0 {
		return errFrame
	}
	c.seen = 0
	if _, err := c.decoder.Write(payload); err != nil {
		return err
	}
	if err := c.decoder.Close(); err != nil {
		return err
	}
	s, known := c.streams[id]
	if !known {
		return fmt.Errorf("an answer on stream %d, where nothing was asked", id)
	}
	if !s.head { // else they are trailers
		if c.status >= 0 && c.seen != c.status {
			return fmt.Errorf("an answer has status %d, expected %d", c.seen, c.status)
		}
		s.head = true
	}
	return c.went(flags, id, s, done)
}

func (c *h2) data(flags byte, id uint32, payload []byte, done func(time.Duration)) error {
	c.unseen += uint32(len(payload))
	if c.unseen > largestWindow/2 {
		c.out = appendFrame(c.out, frameWindow, 0, 0, binary.BigEndian.AppendUint32(nil, c.unseen))
		c.unseen = 0
	}
	s, known := c.streams[id]
	payload, ok := unpad(flags, payload)
	if !known || !ok || !s.head {
		return errFrame
	}
	s.got += len(payload)
	return c.went(flags, id, s, done)
}

// went notes how far an answer is.
func (c *h2) went(flags byte, id uint32, s h2stream, done func(time.Duration)) error {
	if flags&flagEndStream == 0 {
		c.streams[id] = s
		return nil
	}
	delete(c.streams, id)
	if c.length >= 0 && s.got != c.length {
		return fmt.Errorf("an answer has %d bytes, expected %d", s.got, c.length)
	}
	done(s.since)
	return nil
}

func unpad(flags byte, payload []byte) ([]byte, bool) {
	if flags&flagPadded == 0 {
		return payload, true
	}
	if len(payload) == 0 || int(payload[0]) >= len(payload) {
		return nil, false
	}
	return payload[1 : len(payload)-int(payload[0])], true
}
