package idempotency

import (
	"encoding/binary"
	"time"
	"unsafe"

	"sluice/gateway/cluster"
	"sluice/gateway/exchange"
)

// Shared is the Store of instances that share one. What it can not ask it does as it was told to: alone, in memory, and then what was carried out is
// told when the store is back; without looking at keys; or not at all.
type Shared struct {
	store *cluster.Store
	alone *Memory
	ttl   time.Duration
}

// Begin implements Store. It waits for the store, no longer than its timeout.
func (s *Shared) Begin(key Key, fingerprint Fingerprint, now, maxSize int64) Finding {
	if s.alone.Has(key, now) {
		return s.alone.Begin(key, fingerprint, now, maxSize) // it began while the store was gone
	}
	state, claim, answer, err := s.store.Records().Begin(key[:], fingerprint[:], s.ttl)
	if err != nil {
		switch s.store.OnFailure() {
		case cluster.Allow:
			return Finding{Outcome: Unguarded}
		case cluster.Deny:
			return Finding{Outcome: Unavailable}
		}
		return s.alone.Begin(key, fingerprint, now, maxSize)
	}
	switch state {
	case cluster.RecordClaimed:
		return Finding{Outcome: Claimed, Claim: Claim{key: key, number: 1, shared: claim}}
	case cluster.RecordInFlight:
		return Finding{Outcome: InFlight}
	case cluster.RecordReused:
		return Finding{Outcome: Reused}
	case cluster.RecordAnswered:
		if a := decodeAnswer(answer); a != nil {
			return Finding{Outcome: Answered, Answer: a}
		}
	}
	return Finding{Outcome: Lost}
}

// Complete implements Store.
func (s *Shared) Complete(c Claim, a *Answer, now, expires, maxSize int64) {
	var text []byte
	if a != nil {
		text = encodeAnswer(a)
	}
	ttl := time.Duration(max(expires-now, int64(time.Millisecond)))
	if c.shared != "" {
		s.store.Records().Complete(c.key[:], c.shared, ttl, text)
		return
	}
	s.alone.Complete(c, a, now, expires, maxSize)
	s.store.Records().Put(c.key[:], c.fingerprint[:], ttl, text)
}

// Release implements Store.
func (s *Shared) Release(c Claim) {
	if c.shared != "" {
		s.store.Records().Release(c.key[:], c.shared)
		return
	}
	s.alone.Release(c)
}

// An answer is written as a byte for the form, the status, the number of fields, and each field and the body with their lengths.
const answerForm = 1

func encodeAnswer(a *Answer) []byte {
	r := a.Reply
	text := append(make([]byte, 0, a.Size), answerForm)
	text = binary.BigEndian.AppendUint16(text, uint16(r.Head.StatusCode()))
	part := func(b []byte) {
		text = binary.AppendUvarint(text, uint64(len(b)))
		text = append(text, b...)
	}
	for name, value := range r.Head.All() {
		part(name)
		part(value)
	}
	text = append(text, 0) // no name is empty
	part(r.Body)
	return text
}

// decodeAnswer returns nil for what is no answer that this version knows.
func decodeAnswer(text []byte) *Answer {
	if len(text) < 3 || text[0] != answerForm {
		return nil
	}
	r := exchange.NewReply(int(binary.BigEndian.Uint16(text[1:])), exchange.Stored)
	a := &Answer{Reply: r, Size: int64(unsafe.Sizeof(*r)) + int64(len(text))}
	text = text[3:]
	part := func() ([]byte, bool) {
		n, size := binary.Uvarint(text)
		if size <= 0 || n > uint64(len(text)-size) {
			return nil, false
		}
		b := text[size : size+int(n)]
		text = text[size+int(n):]
		return b, true
	}
	for {
		name, ok := part()
		if !ok {
			return nil
		}
		if len(name) == 0 {
			break
		}
		value, ok := part()
		if !ok {
			return nil
		}
		r.Head.AddBytesKV(name, value)
	}
	body, ok := part()
	if !ok || len(text) > 0 {
		return nil
	}
	if len(body) > 0 {
		r.Body = body
	}
	return a
}
