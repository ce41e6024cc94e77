package cache

import (
	"crypto/sha256"
	"encoding/hex"

	"sluice/gateway/exchange"
)

// What Kong's proxy-cache tells clients in X-Cache-Status.
var (
	kongHit     = []byte("Hit")
	kongMiss    = []byte("Miss")
	kongBypass  = []byte("Bypass")
	kongRefresh = []byte("Refresh")
)

// tell writes the headers of Kong. The key is a hash: of what it is made of, a client learns nothing.
func (c *cacher) tell(st *state, x *exchange.Exchange, word []byte) {
	x.ToClient.Set("X-Cache-Status", word)
	if st.forward == "method" {
		return // without a key
	}
	if st.common > 0 {
		sum := sha256.Sum256(st.key[uriAt:st.common])
		x.ToClient.Set("X-Cache-Key", x.Keep(hex.AppendEncode(x.Scratch(), sum[:])))
	}
}
