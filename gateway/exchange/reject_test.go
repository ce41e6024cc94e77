package exchange

import (
	"encoding/json"
	"testing"
)

// Every error that has an id names its instance, also where nobody could read the path.
func TestProblemInstance(t *testing.T) {
	f := func(path, id, want string) {
		t.Helper()
		var p struct {
			Instance  string `json:"instance"`
			RequestID string `json:"request_id"`
		}
		text := NewReject(400, "bad_host", "the host").AppendProblem(nil, []byte(path), []byte(id))
		if err := json.Unmarshal(text, &p); err != nil || p.Instance != want || p.RequestID != id {
			t.Errorf("%q %q: %s %v", path, id, text, err)
		}
	}
	f("/a", "1", "/a")
	f("", "1-a", "urn:sluice:request:1-a")
	f("", `"\`+"\n", `urn:sluice:request:"\`+"\n")
	f("", "", "")
}
