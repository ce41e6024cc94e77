package config

import "strings"

// suggest returns "; did you mean X?" when one of the known words is near.
func suggest(word string, known []string) string {
	if near := nearest(word, known); near != "" {
		return "; did you mean " + near + "?"
	}
	return ""
}

// Hint returns a suggestion to append to a message about a mistaken word: the nearest known one, or all when they are few.
func Hint(word string, known []string) string { return hint(word, known) }

// hint suggests the nearest known word, or names all when they are few.
func hint(word string, known []string) string {
	if s := suggest(word, known); s != "" {
		return s
	}
	if len(known) > 0 && len(known) <= 16 {
		return "; known here: " + strings.Join(known, ", ")
	}
	return ""
}

func nearest(word string, known []string) string {
	best, bestDistance := "", max(len(word)/3, 1)+1
	folded := loosely(word)
	for _, k := range known {
		if distance := editDistance(folded, loosely(k), bestDistance); distance < bestDistance {
			best, bestDistance = k, distance
		}
	}
	return best
}

// editDistance counts insertions, deletions, substitutions and swaps of neighbours between
// a and b; at or above bound it stops counting.
func editDistance(a, b string, bound int) int {
	if len(a) > 64 || len(b) > 64 || len(a)-len(b) >= bound || len(b)-len(a) >= bound {
		return bound
	}
	var rows [3][65]int
	for j := range len(b) + 1 {
		rows[1][j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last, row := &rows[(i-1)%3], &rows[i%3], &rows[(i+1)%3]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return rows[(len(a)+1)%3][len(b)]
}
