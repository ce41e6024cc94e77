package exchange

// IsToken reports whether s is a token (RFC 9110, section 5.6.2), as the name of a header has to be.
func IsToken(s string) bool {
	for i := range len(s) {
		if !tokenBytes[s[i]] {
			return false
		}
	}
	return s != ""
}

var tokenBytes = func() (t [256]bool) {
	for _, c := range "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ!#$%&'*+-.^_`|~" {
		t[c] = true
	}
	return t
}()

// IsFieldValue reports whether b may stand in the value of a header (RFC 9110, section 5.5): no control bytes but the tab.
func IsFieldValue(b []byte) bool {
	for _, c := range b {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}
