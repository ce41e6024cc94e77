package main

import (
	"net"
	"os"
	"os/exec"
	"testing"
	"time"
)

// BenchmarkStart is the time from starting the process to the last byte of its first
// answer, through a client that asks again and again meanwhile.
func BenchmarkStart(b *testing.B) {
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	address := probe.Addr().String()
	probe.Close()
	path := b.TempDir() + "/sluice.yaml"
	text := "listeners: {main: {address: \"" + address + "\"}}\nadmin: off\nroutes: {hello: {match: {paths: [/]}, respond: {body: hello}}}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		c := exec.CommandContext(b.Context(), self, "run", "-c", path, "--drain-delay", "0s")
		c.Env = append(os.Environ(), "SLUICE_TEST_MAIN=1")
		if err := c.Start(); err != nil {
			b.Fatal(err)
		}
		for began := time.Now(); !answers(address); {
			if time.Since(began) > time.Minute {
				b.Fatal("no answer within a minute")
			}
		}
		b.StopTimer()
		_ = c.Process.Kill()
		_ = c.Wait()
		b.StartTimer()
	}
}

// answers tells whether a request gets the beginning of an answer.
func answers(address string) bool {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		time.Sleep(100 * time.Microsecond)
		return false
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n")); err != nil {
		return false
	}
	head := make([]byte, 12)
	n, _ := conn.Read(head)
	return n == len(head)
}
