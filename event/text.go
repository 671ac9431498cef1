// SPDX-License-Identifier: Apache-2.0

package event

import "unicode/utf8"

const hexDigits = "0123456789abcdef"

// plain are the bytes that need no second look: ASCII but for quote, backslash, braces
// and control characters.
var plain = func() (p [256]bool) {
	for b := ' '; b < utf8.RuneSelf; b++ {
		p[b] = b != '"' && b != '\\' && b != '{' && b != '}'
	}
	return p
}()

// appendText appends the inside of a JSON string (section 2.4 of the specification). The
// mapping loses nothing, also where the bytes are not UTF-8: such a byte becomes
// \ufffd and its two digits, and so do those of a genuine U+FFFD. Braces, and a
// backslash at the end, are written in digits because there are clients that count
// braces inside strings too, and take \" at the end of one for an escaped quote.
func appendText(dst, text []byte) []byte {
	start := 0
	for i := 0; i < len(text); {
		b := text[i]
		if plain[b] {
			i++
			continue
		}
		size := 1
		if b >= utf8.RuneSelf {
			var r rune
			if r, size = utf8.DecodeRune(text[i:]); r != utf8.RuneError {
				i += size
				continue
			}
		}
		dst = append(dst, text[start:i]...)
		for _, b := range text[i : i+size] {
			switch {
			case b == '"' || b == '\\' && i+1 < len(text):
				dst = append(dst, '\\', b)
			case b < utf8.RuneSelf:
				dst = append(dst, '\\', 'u', '0', '0', hexDigits[b>>4], hexDigits[b&15])
			default:
				dst = append(dst, `\ufffd`...)
				dst = append(dst, hexDigits[b>>4], hexDigits[b&15])
			}
		}
		i += size
		start = i
	}
	return append(dst, text[start:]...)
}
