package telemetry

import "strings"

// maxForeign bounds what is repeated of what another side says.
const maxForeign = 400

// minSecret is how long a word of a header is at least to be kept out of what is repeated; shorter ones, as Basic, are in any text.
const minSecret = 8

// Foreign makes the text of an error fit for the log in which another side speaks, as a collector does in the body of its refusal: no page
// of it, and nothing of the headers that it was sent, which such a body may repeat.
func Foreign(text string, sent map[string]string) string {
	for _, value := range sent {
		if value == "" {
			continue
		}
		text = strings.ReplaceAll(text, value, "***")
		for word := range strings.FieldsSeq(value) {
			if len(word) >= minSecret {
				text = strings.ReplaceAll(text, word, "***")
			}
		}
	}
	if len(text) > maxForeign {
		text = strings.ToValidUTF8(text[:maxForeign], "") + "…"
	}
	return text
}
