package config

import (
	"net"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

func (k *checker) redis(path string, r *Redis) {
	if r.Off {
		return
	}
	for i, address := range r.Addresses {
		at := joinIndex(path+".addresses", i)
		if address == "" {
			k.fail(at, "the address is empty; write host:port, as 127.0.0.1:6379")
			continue
		}
		if before, host, has := strings.Cut(address, "@"); has || strings.Contains(before, "://") {
			// What stands before the host may be a password.
			if !has {
				_, host, _ = strings.Cut(before, "://")
			}
			host, _, _ = strings.Cut(host, "/")
			k.fail(at, "write the host and the port alone, as %s; what else a URL says goes into username, password, db and tls", host)
			continue
		}
		host, port, err := net.SplitHostPort(address)
		n, bad := strconv.ParseUint(port, 10, 16)
		switch {
		case err != nil:
			k.fail(at, "%q is no address; write host:port, as %s", address, net.JoinHostPort(strings.Trim(address, "[]"), "6379"))
		case bad != nil || n == 0:
			k.fail(at, "%q has no port between 1 and 65535", address)
		case !isAuthority(net.JoinHostPort(host, port)):
			k.fail(at, "%q is neither an address nor the name of a host", host)
		case slices.Contains(r.Addresses[:i], address):
			k.fail(at, "%q stands here twice", address)
		}
	}
	if r.Username != "" && r.Password.IsZero() {
		k.fail(path+".password", "there is a username and no password; write password: \"${REDIS_PASSWORD}\", or leave both out")
	}
	if (r.TLS.Cert == "") != (r.TLS.Key == "") {
		k.fail(path+".tls", "a client certificate is cert and key together")
	}
	if s := &r.Sentinel; !s.Off && s.Username != "" && s.Password.IsZero() {
		k.fail(path+".sentinel.password", "there is a username and no password; write password: \"${SENTINEL_PASSWORD}\", or leave both out")
	}
	if strings.ContainsFunc(r.Prefix, func(c rune) bool { return c <= ' ' || c > unicode.MaxASCII || c == '{' || c == '}' }) {
		k.fail(path+".prefix", "%q has spaces, braces or characters beyond ASCII; write a word, as sluice", r.Prefix)
	}
}
