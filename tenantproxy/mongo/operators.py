"""Which operators of MongoDB's languages stay within the documents they are given? What is not named here is refused.

Not here: what runs code on the server ($where, $function, $accumulator), reads or writes other collections, or tells of
the server. A new operator of a new MongoDB is refused until it is looked at.
"""

from __future__ import annotations

from typing import Final

__all__ = ["EXPRESSIONS", "FILTERS", "LOGICAL", "OWN_STAGES", "STAGES", "UPDATES"]


def _words(text: str) -> frozenset[str]:
    return frozenset(f"${word}" for word in text.split())


LOGICAL: Final = _words("and or nor")

FILTERS: Final = LOGICAL | _words("""
    not eq ne gt gte lt lte in nin exists type mod regex options text search language caseSensitive diacriticSensitive
    all elemMatch size bitsAllClear bitsAllSet bitsAnyClear bitsAnySet geoIntersects geoWithin geometry box center
    centerSphere polygon comment expr
""")

UPDATES: Final = _words("""
    set setOnInsert unset inc mul min max rename currentDate push pull pullAll addToSet pop bit
""")

EXPRESSIONS: Final = _words("""
    abs add ceil divide exp floor ln log log10 mod multiply pow round sqrt subtract trunc
    arrayElemAt arrayToObject concatArrays filter in indexOfArray isArray map objectToArray range reduce reverseArray
    size slice sortArray zip firstN lastN maxN minN and not or cmp eq gt gte lt lte ne cond ifNull switch
    dateAdd dateDiff dateFromParts dateFromString dateSubtract dateToParts dateToString dateTrunc dayOfMonth dayOfWeek
    dayOfYear hour isoDayOfWeek isoWeek isoWeekYear millisecond minute month second toDate week year
    mergeObjects setField getField unsetField allElementsTrue anyElementTrue setDifference setEquals setIntersection
    setIsSubset setUnion concat indexOfBytes indexOfCP ltrim regexFind regexFindAll regexMatch replaceOne replaceAll
    rtrim split strLenBytes strLenCP strcasecmp substr substrBytes substrCP toLower toString trim toUpper
    convert isNumber toBool toDecimal toDouble toInt toLong toObjectId type let literal meta
    sin cos tan asin acos atan atan2 asinh acosh atanh sinh cosh tanh degreesToRadians radiansToDegrees
    bitAnd bitOr bitXor bitNot binarySize bsonSize
    addToSet avg bottom bottomN count first last max median min percentile push stdDevPop stdDevSamp sum top topN
    covariancePop covarianceSamp denseRank derivative documentNumber expMovingAvg integral linearFill locf rank shift
    rand
""")

STAGES: Final = _words("""
    match project addFields set unset group sort limit skip count unwind sortByCount bucket bucketAuto facet replaceRoot
    replaceWith sample setWindowFields fill densify
""")
"""Of a collection of all tenants: each sees what the stage before it gave."""

OWN_STAGES: Final = _words("lookup graphLookup unionWith out merge")
"""Of a tenant's own database, and there of collections of the same database alone."""
