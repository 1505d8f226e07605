// The runtime of Yosys's CXXRTL back-end, for speed: numbers of up to 64 bits are one machine word, wider ones an array of
// words, and a slice or a concatenation is one access to the words that it touches.
//
// The names, the template parameters and what the operations give are CXXRTL's (cxxrtl.h), so that its generated text
// compiles with either. Only what synthesisable designs need is here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#define CXXRTL_ASSERT(condition)
#define MVQ_INLINE inline __attribute__((always_inline))

using std::size_t;

template<size_t Bits, bool Wide = (Bits > 64)>
struct value;
template<size_t Bits, class F>
MVQ_INLINE value<Bits> from_words(F word);
template<size_t Bits>
MVQ_INLINE value<Bits> merged(const value<Bits> &old, const value<Bits> &word, const value<Bits> &mask);

// `Bits` ones, at most 64.
template<size_t Bits>
constexpr uint64_t ones = Bits >= 64 ? ~uint64_t(0) : (uint64_t(1) << (Bits % 64)) - 1;

constexpr size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
constexpr size_t larger(size_t a, size_t b) { return a > b ? a : b; }

// ---- Slices and concatenations: get<Start, Count>() and put<Start, Count>() move at most 64 bits of an expression.

template<class T, size_t Stop, size_t Start>
struct slice_of;
template<class High, class Low>
struct concat_of;

template<class E>
struct expression {
	template<size_t Stop, size_t Start = Stop>
	MVQ_INLINE slice_of<const E, Stop, Start> slice() const { return {*static_cast<const E *>(this)}; }
	template<size_t Stop, size_t Start = Stop>
	MVQ_INLINE slice_of<E, Stop, Start> slice() { return {*static_cast<E *>(this)}; }
	template<class U>
	MVQ_INLINE concat_of<const E, std::remove_reference_t<U>> concat(U &&low) const {
		return {*static_cast<const E *>(this), low};
	}
	template<class U>
	MVQ_INLINE concat_of<E, std::remove_reference_t<U>> concat(U &&low) { return {*static_cast<E *>(this), low}; }
};

// Copies all bits of `from` to `to`, 64 at a time.
template<size_t Bits, class To, class From, size_t... I>
MVQ_INLINE void copy_words(To &to, const From &from, std::index_sequence<I...>) {
	(to.template put<64 * I, smaller(64, Bits - 64 * I)>(from.template get<64 * I, smaller(64, Bits - 64 * I)>()), ...);
}
template<size_t Bits, class To, class From>
MVQ_INLINE void copy_bits(To &to, const From &from) {
	copy_words<Bits>(to, from, std::make_index_sequence<(Bits + 63) / 64>());
}

template<class T, size_t Stop, size_t Start>
struct slice_of : expression<slice_of<T, Stop, Start>> {
	static constexpr size_t bits = Stop - Start + 1;
	T &base;

	MVQ_INLINE slice_of(T &base) : base(base) {}
	template<size_t From, size_t Count>
	MVQ_INLINE uint64_t get() const { return base.template get<Start + From, Count>(); }
	template<size_t From, size_t Count>
	MVQ_INLINE void put(uint64_t word) { base.template put<Start + From, Count>(word); }
	MVQ_INLINE value<bits> val() const {
		value<bits> result;
		copy_bits<bits>(result, *this);
		return result;
	}
	MVQ_INLINE operator value<bits>() const { return val(); }
	MVQ_INLINE void operator=(const value<bits> &other) { copy_bits<bits>(*this, other); }
};

template<class High, class Low>
struct concat_of : expression<concat_of<High, Low>> {
	static constexpr size_t bits = High::bits + Low::bits;
	High &high;
	Low &low;

	MVQ_INLINE concat_of(High &high, Low &low) : high(high), low(low) {}
	template<size_t From, size_t Count>
	MVQ_INLINE uint64_t get() const {
		if constexpr (From + Count <= Low::bits) {
			return low.template get<From, Count>();
		} else if constexpr (From >= Low::bits) {
			return high.template get<From - Low::bits, Count>();
		} else {
			constexpr size_t below = Low::bits - From;
			return low.template get<From, below>() | high.template get<0, Count - below>() << below;
		}
	}
	template<size_t From, size_t Count>
	MVQ_INLINE void put(uint64_t word) {
		if constexpr (From + Count <= Low::bits) {
			low.template put<From, Count>(word);
		} else if constexpr (From >= Low::bits) {
			high.template put<From - Low::bits, Count>(word);
		} else {
			constexpr size_t below = Low::bits - From;
			low.template put<From, below>(word & ones<below>);
			high.template put<0, Count - below>(word >> below);
		}
	}
	MVQ_INLINE value<bits> val() const {
		value<bits> result;
		copy_bits<bits>(result, *this);
		return result;
	}
	MVQ_INLINE operator value<bits>() const { return val(); }
	MVQ_INLINE void operator=(const value<bits> &other) { copy_bits<bits>(*this, other); }
};

// ---- Values. Bits above the width are always zero.

template<size_t Bits>
struct value<Bits, false> : expression<value<Bits, false>> {
	static constexpr size_t bits = Bits;
	static constexpr size_t words = 1;
	using word = std::conditional_t<(Bits <= 32), uint32_t, uint64_t>;
	word data = 0;

	constexpr value() = default;
	explicit constexpr value(uint32_t low) : data(low) {}
	explicit constexpr value(uint32_t low, uint32_t high) : data(low | uint64_t(high) << 32) {}

	// The low bits of a word.
	MVQ_INLINE static value of(uint64_t bits) {
		value result;
		result.data = word(bits & ones<Bits>);
		return result;
	}
	MVQ_INLINE const value &val() const { return *this; }
	template<size_t From, size_t Count>
	MVQ_INLINE uint64_t get() const { return (uint64_t(data) >> From) & ones<Count>; }
	template<size_t From, size_t Count>
	MVQ_INLINE void put(uint64_t bits) {
		if constexpr (Count == Bits)
			data = word(bits);
		else
			data = word((data & ~(ones<Count> << From)) | bits << From);
	}
	// Word `index` of the value, extended to any width, without or with its sign.
	MVQ_INLINE uint64_t at(size_t index) const { return index ? 0 : data; }
	MVQ_INLINE uint64_t at_signed(size_t index) const {
		int64_t extended = int64_t(uint64_t(data) << (64 - Bits)) >> (64 - Bits);
		return uint64_t(index ? extended >> 63 : extended);
	}
	MVQ_INLINE void set(size_t, uint64_t bits) { data = word(bits); }
	template<size_t Count>
	MVQ_INLINE value<Count> repeat() const {
		static_assert(Bits == 1, "only one bit can be repeated");
		return from_words<Count>([&](size_t) { return 0 - uint64_t(data); });
	}
	MVQ_INLINE value update(const value &word, const value &mask) const { return merged(*this, word, mask); }
	MVQ_INLINE bool is_zero() const { return data == 0; }
	MVQ_INLINE explicit operator bool() const { return data != 0; }
	MVQ_INLINE bool operator==(const value &other) const { return data == other.data; }
	MVQ_INLINE bool operator!=(const value &other) const { return data != other.data; }
};

template<size_t Bits>
struct value<Bits, true> : expression<value<Bits, true>> {
	static constexpr size_t bits = Bits;
	static constexpr size_t words = (Bits + 63) / 64;
	static constexpr size_t top = Bits - 64 * (words - 1);  // bits of the last word
	uint64_t data[words] = {};

	constexpr value() = default;
	template<class... Rest>
	explicit constexpr value(uint32_t first, Rest... rest) {
		const uint32_t halves[] = {first, uint32_t(rest)...};
		for (size_t i = 0; i < sizeof...(rest) + 1; i++)
			data[i / 2] |= uint64_t(halves[i]) << (32 * (i % 2));
	}

	MVQ_INLINE const value &val() const { return *this; }
	template<size_t From, size_t Count>
	MVQ_INLINE uint64_t get() const {
		constexpr size_t index = From / 64, shift = From % 64;
		uint64_t bits = data[index] >> shift;
		if constexpr (shift + Count > 64)
			bits |= data[index + 1] << (64 - shift);
		return bits & ones<Count>;
	}
	template<size_t From, size_t Count>
	MVQ_INLINE void put(uint64_t bits) {
		constexpr size_t index = From / 64, shift = From % 64;
		if constexpr (Count == 64 && shift == 0) {
			data[index] = bits;
		} else {
			data[index] = (data[index] & ~(ones<Count> << shift)) | bits << shift;
			if constexpr (shift + Count > 64) {
				constexpr size_t above = shift + Count - 64;
				data[index + 1] = (data[index + 1] & ~ones<above>) | bits >> (64 - shift);
			}
		}
	}
	MVQ_INLINE uint64_t at(size_t index) const { return index < words ? data[index] : 0; }
	MVQ_INLINE uint64_t at_signed(size_t index) const {
		if (index + 1 < words)
			return data[index];
		int64_t extended = int64_t(data[words - 1] << (64 - top)) >> (64 - top);
		return uint64_t(index < words ? extended : extended >> 63);
	}
	MVQ_INLINE void set(size_t index, uint64_t bits) { data[index] = bits; }
	MVQ_INLINE value update(const value &word, const value &mask) const { return merged(*this, word, mask); }
	MVQ_INLINE bool is_zero() const {
		uint64_t any = 0;
		for (size_t i = 0; i < words; i++)
			any |= data[i];
		return any == 0;
	}
	MVQ_INLINE explicit operator bool() const { return !is_zero(); }
	MVQ_INLINE bool operator==(const value &other) const {
		uint64_t differ = 0;
		for (size_t i = 0; i < words; i++)
			differ |= data[i] ^ other.data[i];
		return differ == 0;
	}
	MVQ_INLINE bool operator!=(const value &other) const { return !(*this == other); }
};

// ---- Operations. A suffix says for each operand whether it is extended with its sign (s) or with zeros (u).

template<bool Signed, size_t Bits>
MVQ_INLINE uint64_t word_of(const value<Bits> &a, size_t index) {
	if constexpr (Signed)
		return a.at_signed(index);
	else
		return a.at(index);
}

// The value whose word i is `word(i)`, cut to its width.
template<size_t Bits, class F>
MVQ_INLINE value<Bits> from_words(F word) {
	value<Bits> result;
	constexpr size_t last = value<Bits>::words - 1;
	for (size_t i = 0; i < last; i++)
		result.set(i, word(i));
	result.set(last, word(last) & ones<Bits - 64 * last>);
	return result;
}

template<size_t Bits>
MVQ_INLINE value<Bits> truth(bool is) { return value<Bits>{is ? 1u : 0u}; }

template<size_t Bits>
MVQ_INLINE bool is_negative(const value<Bits> &a) { return a.template get<Bits - 1, 1>() != 0; }

template<bool Signed, size_t BitsA, size_t BitsB>
MVQ_INLINE bool equal(const value<BitsA> &a, const value<BitsB> &b) {
	uint64_t differ = 0;
	for (size_t i = 0; i < larger(a.words, b.words); i++)
		differ |= word_of<Signed>(a, i) ^ word_of<Signed>(b, i);
	return differ == 0;
}

template<bool Signed, size_t BitsA, size_t BitsB>
MVQ_INLINE bool less(const value<BitsA> &a, const value<BitsB> &b) {
	for (size_t i = larger(a.words, b.words); i-- > 0;) {
		uint64_t x = word_of<Signed>(a, i), y = word_of<Signed>(b, i);
		if (Signed && i + 1 == larger(a.words, b.words))
			x ^= uint64_t(1) << 63, y ^= uint64_t(1) << 63;
		if (x != y || i == 0)
			return x < y;
	}
	return false;
}

template<bool Signed, size_t BitsY, size_t BitsA, size_t BitsB>
MVQ_INLINE value<BitsY> sum(const value<BitsA> &a, const value<BitsB> &b, uint64_t invert, bool carry) {
	return from_words<BitsY>([&](size_t i) {
		uint64_t x = word_of<Signed>(a, i), y = word_of<Signed>(b, i) ^ invert, total = x + y + carry;
		carry = total < x || (carry && total == x);
		return total;
	});
}

template<bool Signed, size_t BitsY, size_t BitsA, size_t BitsB>
MVQ_INLINE value<BitsY> product(const value<BitsA> &a, const value<BitsB> &b) {
	value<BitsY> result;
	uint64_t words[value<BitsY>::words] = {};
	for (size_t i = 0; i < result.words; i++) {
		uint64_t carry = 0;
		for (size_t j = 0; i + j < result.words; j++) {
			unsigned __int128 part = (unsigned __int128)word_of<Signed>(a, i) * word_of<Signed>(b, j);
			part += (unsigned __int128)words[i + j] + carry;
			words[i + j] = uint64_t(part);
			carry = uint64_t(part >> 64);
		}
	}
	return from_words<BitsY>([&](size_t i) { return words[i]; });
}

// The distance of a shift, or a distance beyond every width.
template<size_t Bits>
MVQ_INLINE uint64_t distance(const value<Bits> &amount) {
	for (size_t i = 1; i < amount.words; i++)
		if (amount.at(i))
			return uint64_t(1) << 62;
	return amount.at(0) >> 62 ? uint64_t(1) << 62 : amount.at(0);
}

template<bool Signed, size_t BitsY, size_t BitsA>
MVQ_INLINE value<BitsY> left(const value<BitsA> &a, uint64_t amount) {
	if (amount >= BitsY)
		return value<BitsY>{};
	size_t skip = amount / 64, shift = amount % 64;
	return from_words<BitsY>([&](size_t i) -> uint64_t {
		if (i < skip)
			return 0;
		uint64_t bits = word_of<Signed>(a, i - skip) << shift;
		return shift && i > skip ? bits | word_of<Signed>(a, i - skip - 1) >> (64 - shift) : bits;
	});
}

// `a`, extended with its sign if Signed, shifted to the right and cut.
template<bool Signed, size_t BitsY, size_t BitsA>
MVQ_INLINE value<BitsY> right(const value<BitsA> &a, uint64_t amount) {
	if constexpr (value<BitsA>::words == 1 && value<BitsY>::words == 1) {
		uint64_t shift = amount < 63 ? amount : 63;
		uint64_t bits = Signed ? uint64_t(int64_t(a.at_signed(0)) >> shift) : amount < 64 ? a.at(0) >> shift : 0;
		return value<BitsY>::of(bits);
	}
	size_t shift = amount % 64;
	return from_words<BitsY>([&](size_t i) {
		size_t from = smaller(i + amount / 64, a.words);
		uint64_t bits = word_of<Signed>(a, from) >> shift;
		return shift ? bits | word_of<Signed>(a, from + 1) << (64 - shift) : bits;
	});
}

#define MVQ_UNARY(name, expression)          \
	template<size_t BitsY, size_t BitsA> \
	MVQ_INLINE value<BitsY> name(const value<BitsA> &a) { return expression; }
#define MVQ_BINARY(name, expression)                       \
	template<size_t BitsY, size_t BitsA, size_t BitsB> \
	MVQ_INLINE value<BitsY> name(const value<BitsA> &a, const value<BitsB> &b) { return expression; }
// The unsigned and the signed form of an operation, with S for which it is.
#define MVQ_UNARY_FORMS(name, expression)                                                              \
	template<bool S, size_t BitsY, size_t BitsA>                                                   \
	MVQ_INLINE value<BitsY> name##_form(const value<BitsA> &a) { return expression; }              \
	MVQ_UNARY(name##_u, (name##_form<false, BitsY>(a)))                                            \
	MVQ_UNARY(name##_s, (name##_form<true, BitsY>(a)))
#define MVQ_BINARY_FORMS(name, expression)                                                                       \
	template<bool S, size_t BitsY, size_t BitsA, size_t BitsB>                                               \
	MVQ_INLINE value<BitsY> name##_form(const value<BitsA> &a, const value<BitsB> &b) { return expression; } \
	MVQ_BINARY(name##_uu, (name##_form<false, BitsY>(a, b)))                                                 \
	MVQ_BINARY(name##_ss, (name##_form<true, BitsY>(a, b)))
#define MVQ_WORDS(expression) (from_words<BitsY>([&](size_t i) { return expression; }))
#define MVQ_A word_of<S>(a, i)
#define MVQ_B word_of<S>(b, i)

MVQ_UNARY(logic_not, truth<BitsY>(!a))
MVQ_BINARY(logic_and, truth<BitsY>(bool(a) && bool(b)))
MVQ_BINARY(logic_or, truth<BitsY>(bool(a) || bool(b)))
MVQ_UNARY(reduce_and, truth<BitsY>((equal<true>(a, value<2>{3u}))))
MVQ_UNARY(reduce_or, truth<BitsY>(bool(a)))
MVQ_UNARY(reduce_bool, truth<BitsY>(bool(a)))

template<size_t Bits>
MVQ_INLINE bool parity(const value<Bits> &a) {
	uint64_t all = 0;
	for (size_t i = 0; i < a.words; i++)
		all ^= a.at(i);
	return __builtin_parityll(all);
}
MVQ_UNARY(reduce_xor, truth<BitsY>(parity(a)))
MVQ_UNARY(reduce_xnor, truth<BitsY>(!parity(a)))

MVQ_UNARY_FORMS(pos, MVQ_WORDS(MVQ_A))
MVQ_UNARY_FORMS(not, MVQ_WORDS(~MVQ_A))
MVQ_UNARY_FORMS(neg, (sum<S, BitsY>(value<1>{}, a, ~uint64_t(0), true)))
MVQ_BINARY_FORMS(and, MVQ_WORDS(MVQ_A & MVQ_B))
MVQ_BINARY_FORMS(or, MVQ_WORDS(MVQ_A | MVQ_B))
MVQ_BINARY_FORMS(xor, MVQ_WORDS(MVQ_A ^ MVQ_B))
MVQ_BINARY_FORMS(xnor, MVQ_WORDS(~(MVQ_A ^ MVQ_B)))
MVQ_BINARY_FORMS(add, (sum<S, BitsY>(a, b, 0, false)))
MVQ_BINARY_FORMS(sub, (sum<S, BitsY>(a, b, ~uint64_t(0), true)))
MVQ_BINARY_FORMS(mul, (product<S, BitsY>(a, b)))
MVQ_BINARY_FORMS(eq, truth<BitsY>(equal<S>(a, b)))
MVQ_BINARY_FORMS(ne, truth<BitsY>(!equal<S>(a, b)))
MVQ_BINARY_FORMS(eqx, truth<BitsY>(equal<S>(a, b)))
MVQ_BINARY_FORMS(nex, truth<BitsY>(!equal<S>(a, b)))
MVQ_BINARY_FORMS(lt, truth<BitsY>(less<S>(a, b)))
MVQ_BINARY_FORMS(gt, truth<BitsY>(less<S>(b, a)))
MVQ_BINARY_FORMS(le, truth<BitsY>(!less<S>(b, a)))
MVQ_BINARY_FORMS(ge, truth<BitsY>(!less<S>(a, b)))

MVQ_BINARY(shl_uu, (left<false, BitsY>(a, distance(b))))
MVQ_BINARY(shl_su, (left<true, BitsY>(a, distance(b))))
MVQ_BINARY(sshl_uu, (left<false, BitsY>(a, distance(b))))
MVQ_BINARY(sshl_su, (left<true, BitsY>(a, distance(b))))
MVQ_BINARY(shr_uu, (right<false, BitsY>(a, distance(b))))
MVQ_BINARY(shr_su, (right<false, BitsY>(pos_s<larger(BitsY, BitsA)>(a), distance(b))))
MVQ_BINARY(sshr_uu, (right<false, BitsY>(a, distance(b))))
MVQ_BINARY(sshr_su, (right<true, BitsY>(a, distance(b))))

// Shifts to the right, by a signed amount to the left where it is negative.
MVQ_BINARY(shift_uu, (shr_uu<BitsY>(a, b)))
MVQ_BINARY(shift_su, (right<true, BitsY>(a, distance(b))))
MVQ_BINARY(shift_us, (is_negative(b) ? shl_uu<BitsY>(a, neg_s<BitsB + 1>(b)) : shr_uu<BitsY>(a, b)))
MVQ_BINARY(shift_ss, (is_negative(b) ? shl_su<BitsY>(a, neg_s<BitsB + 1>(b)) : shift_su<BitsY>(a, b)))
MVQ_BINARY(shiftx_uu, (shift_uu<BitsY>(a, b)))
MVQ_BINARY(shiftx_su, (shift_su<BitsY>(a, b)))
MVQ_BINARY(shiftx_us, (shift_us<BitsY>(a, b)))
MVQ_BINARY(shiftx_ss, (shift_ss<BitsY>(a, b)))

// `old` with the bits of `word` where `mask` is 1.
template<size_t Bits>
MVQ_INLINE value<Bits> merged(const value<Bits> &old, const value<Bits> &word, const value<Bits> &mask) {
	return from_words<Bits>([&](size_t i) { return (old.at(i) & ~mask.at(i)) | (word.at(i) & mask.at(i)); });
}

// ---- State.

// Next value of a wire in a combinational loop; true if it is new.
template<size_t Bits>
MVQ_INLINE bool update(value<Bits> &curr, const value<Bits> &next) {
	bool changed = curr != next;
	curr = next;
	return changed;
}

// Memory whose writes take effect at the clock edge; a write that is not enabled costs nothing.
template<size_t Width, size_t Ports>
struct memory {
	struct write {
		size_t index;
		value<Width> word, mask;
		int priority;
	};
	std::vector<value<Width>> data;
	write writes[larger(Ports, 1)];
	size_t waiting = 0;

	explicit memory(size_t depth) : data(depth) {}

	MVQ_INLINE const value<Width> &operator[](size_t index) const { return data[index]; }

	MVQ_INLINE void update(size_t index, const value<Width> &word, const value<Width> &mask, int priority) {
		if (mask.is_zero())
			return;
		size_t place = waiting++;
		for (; place > 0 && writes[place - 1].priority > priority; place--)
			writes[place] = writes[place - 1];
		writes[place] = {index, word, mask, priority};
	}

	MVQ_INLINE void commit() {
		for (size_t i = 0; i < waiting; i++)
			data[writes[i].index] = data[writes[i].index].update(writes[i].word, writes[i].mask);
		waiting = 0;
	}
};

struct memory_index {
	bool valid;
	size_t index;

	template<size_t Bits>
	MVQ_INLINE memory_index(const value<Bits> &address, size_t offset, size_t depth) {
		index = size_t(distance(address)) - offset;
		valid = index < depth;
	}
};
